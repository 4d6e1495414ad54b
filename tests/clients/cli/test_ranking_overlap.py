"""Overlap, rank correlation and percentiles, against values worked out by hand."""

import pytest

from two_tower_client.cli.ranking_overlap import count_bins, overlap, percentile, rank_correlation


@pytest.mark.parametrize(
    ("old", "new", "cutoff", "expected"),
    [
        ("abcd", "dcba", 4, 1.0),
        ("abcd", "abxy", 4, 0.5),
        ("abcd", "efgh", 4, 0.0),
        ("abcd", "dcba", 2, 0.0),
        ("abcd", "bxaa", 2, 0.5),
        ("abcd", "ab", 4, 0.5),
        ("ab", "ba", 10, 1.0),
        ("", "ab", 10, 0.0),
        ("", "", 10, 1.0),
    ],
)
def test_overlap_is_the_share_of_common_items(old: str, new: str, cutoff: int, expected: float) -> None:
    assert overlap(old, new, cutoff) == expected
    assert overlap(new, old, cutoff) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "dcba", -1.0),
        # d = 1, 1, 0, 0: 1 - 6 * 2 / (4 * 15)
        ("abcd", "bacd", 0.8),
        # d = 1, 1, 2: 1 - 6 * 6 / (3 * 8)
        ("abc", "bca", -0.5),
        # Common are a, b and c, in that order in both, whatever lies between them.
        ("axbc", "abyzc", 1.0),
        # Common are a and b.
        ("xab", "bya", -1.0),
        ("abc", "cxy", None),
        ("abc", "xyz", None),
        ("", "", None),
    ],
)
def test_rank_correlation_is_that_of_the_common_items(old: str, new: str, expected: float | None) -> None:
    assert rank_correlation(old, new) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_percentiles_are_interpolated() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.0) == 1.0
    assert percentile([4.0, 1.0, 3.0, 2.0], 1.0) == 4.0
    # Position 0.9 * 10 of eleven values.
    assert percentile(list(range(11)), 0.9) == 9.0
    assert percentile([7.0], 0.99) == 7.0


def test_bins_hold_their_lower_bound_and_the_last_one_too() -> None:
    assert count_bins([0.0, 0.05, 0.1, 0.3, 0.55, 0.99, 1.0], 10) == (2, 1, 0, 1, 0, 1, 0, 0, 0, 2)
