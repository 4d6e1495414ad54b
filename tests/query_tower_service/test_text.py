"""Text features: the cache of text embeddings, its metrics, and batches of texts of similar length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from query_tower_service.text_metrics import TextMetrics
from retrieval.bundle.features.tokenizer import pad_token_ids
from retrieval.inference.text_encoder import TextCache, groups_by_length


def counted(registry: CollectorRegistry, result: str) -> float:
    return registry.get_sample_value("two_tower_text_cache_lookups_total", {"result": result}) or 0.0


def vectors(*values: float) -> np.ndarray:
    return np.array([[value, -value] for value in values], dtype=np.float32)


def test_the_cache_drops_the_least_recently_used_text() -> None:
    registry = CollectorRegistry()
    cache = TextCache(2, TextMetrics(registry))
    cache.add(["a", "b"], vectors(1, 2))
    assert list(cache.find(["a"])["a"]) == [1, -1]
    cache.add(["c"], vectors(3))
    assert set(cache.find(["a", "b", "c"])) == {"a", "c"}
    assert len(cache) == 2
    # One hit of one lookup, then two of three.
    assert (counted(registry, "hit"), counted(registry, "miss")) == (3, 1)


def test_a_cache_of_size_0_holds_nothing() -> None:
    cache = TextCache(0, TextMetrics(CollectorRegistry()))
    cache.add(["a"], vectors(1))
    assert cache.find(["a"]) == {}


def test_a_cache_never_holds_more_than_its_size() -> None:
    cache = TextCache(3, TextMetrics(CollectorRegistry()))
    cache.add([str(number) for number in range(10)], vectors(*range(10)))
    assert set(cache.find([str(number) for number in range(10)])) == {"7", "8", "9"}


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([4, 4, 4], [[0, 1, 2]]),
        ([0, 3, 0], [[1]]),
        ([], []),
        # 64 and 60: 4 of padding, less than a call costs (16); 8 would waste 52 more.
        ([8, 64, 60], [[1, 2], [0]]),
        # 10, 9, 8, ... waste 1, 3, 6, 10 and 15; the sixth would make it 21.
        ([10, 9, 8, 7, 6, 5, 4], [[0, 1, 2, 3, 4, 5], [6]]),
    ],
)
def test_texts_of_similar_length_run_together(lengths: list[int], expected: list[list[int]]) -> None:
    assert groups_by_length(lengths) == expected


@given(st.lists(st.integers(0, 64), max_size=40), st.booleans())
def test_every_text_runs_once(lengths: list[int], together: bool) -> None:
    groups = groups_by_length(lengths, together)
    assert sorted(row for group in groups for row in group) == [row for row, n in enumerate(lengths) if n]
    assert not together or len(groups) <= 1


def test_a_call_has_a_bounded_number_of_tokens() -> None:
    # 32,768 tokens are 512 texts of 64.
    assert [len(group) for group in groups_by_length([64] * 1200, together=True)] == [512, 512, 176]


def test_token_ids_are_right_padded() -> None:
    assert pad_token_ids([[5, 6], [], [7]], 9).tolist() == [[5, 6], [9, 9], [7, 9]]
    assert pad_token_ids([[5]], 0, 3).tolist() == [[5, 0, 0]]
    assert pad_token_ids([[]], 0).tolist() == [[0]]
    assert pad_token_ids([], 0).shape == (0, 1)
