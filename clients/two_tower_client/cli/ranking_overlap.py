"""Agreement of two rankings, and statistics of a list of values. All functions are pure."""

import math
from collections.abc import Sequence


def overlap(old: Sequence[str], new: Sequence[str], cutoff: int) -> float:
    """Returns the share of the first `cutoff` items that both rankings contain, 0 to 1, whatever their order.

    If both rankings are shorter than `cutoff`, the share refers to the length of the longer one. The overlap of two
    empty rankings is 1.

    Args:
        old: Distinct item ids, best first.
        new: Distinct item ids, best first.
        cutoff: Number of items of each ranking to compare, at least 1.
    """
    first, second = set(old[:cutoff]), set(new[:cutoff])
    longest = max(len(first), len(second))
    return len(first & second) / longest if longest else 1.0


def rank_correlation(old: Sequence[str], new: Sequence[str]) -> float | None:
    """Returns Spearman's rank correlation of the items that both rankings contain, -1 to 1.

    The m common items are ranked 1 to m within each ranking: rho = 1 - 6 sum(d^2) / (m (m^2 - 1)), where d is the
    difference of the two ranks of an item (Spearman 1904; without ties). Items that only one ranking contains do not
    count, so read it together with the overlap. None if there are fewer than two common items.

    Args:
        old: Distinct item ids, best first.
        new: Distinct item ids, best first.
    """
    common = set(old) & set(new)
    count = len(common)
    if count < 2:
        return None
    ranks = {item: rank for rank, item in enumerate(item for item in old if item in common)}
    squares = sum((rank - ranks[item]) ** 2 for rank, item in enumerate(item for item in new if item in common))
    return 1.0 - 6.0 * squares / (count * (count**2 - 1))


def percentile(values: Sequence[float], share: float) -> float:
    """Returns a percentile, interpolated linearly between values (Hyndman and Fan 1996, definition 7).

    Args:
        values: At least one value, in any order.
        share: Share of the values below the percentile, 0 to 1; 0.5 is the median.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def count_bins(values: Sequence[float], bin_count: int) -> tuple[int, ...]:
    """Returns the number of values in each of `bin_count` equal parts of 0 to 1. The last part includes 1."""
    counts = [0] * bin_count
    for value in values:
        counts[min(int(value * bin_count), bin_count - 1)] += 1
    return tuple(counts)
