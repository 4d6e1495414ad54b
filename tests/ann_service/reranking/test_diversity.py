"""Choosing candidates so that they differ, against the definitions in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ann_service.reranking.diversity import Chosen, Groups, choose
from retrieval.bundle.catalogue.items import Column, FloatColumn, IntColumn, StringColumn, StringListColumn
from retrieval.steps import run_to_end
from tests.ann_service.reranking.counted_codes import counted_lists, reads_of
from tests.worlds import unit_vectors

_TOLERANCE = 1e-5
"""Marginal relevances are float32; candidates that differ by less may be chosen in either order."""


def run(relevances: Any, vectors: np.ndarray, k: int, diversity: float, groups: Sequence[Groups] = ()) -> Chosen:
    return run_to_end(choose(np.array(relevances), vectors, k, diversity, groups))


def groups_of(column: Column, size: int, count: int) -> Groups:
    return Groups(column, np.arange(count), size)


def marginal(
    relevances: Sequence[float], vectors: np.ndarray, chosen: Sequence[int], row: int, diversity: float
) -> float:
    """The marginal relevance of a candidate after others were chosen, as the paper defines it."""
    nearest = max((float(vectors[row].astype(float) @ vectors[other].astype(float)) for other in chosen), default=0.0)
    return (1 - diversity) * relevances[row] - diversity * nearest


def test_a_worked_example() -> None:
    # Cosines: a-b .8, a-c 0, b-c .6. Relevances .9, .8, .3; diversity .5.
    # First a: .45. Then b: .4 - .4 = 0, c: .15 - 0 = .15. Then b: .4 - .5 * max(.8, .6) = 0.
    vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=np.float32)
    chosen = run([0.9, 0.8, 0.3], vectors, 3, 0.5)
    assert chosen.positions.tolist() == [0, 2, 1]
    assert chosen.marginal_relevances.tolist() == pytest.approx([0.45, 0.15, 0.0])


def test_of_equal_candidates_the_better_ranked_comes_first() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert run([0.5] * 4, vectors, 4, 0.3).positions.tolist() == [0, 1, 2, 3]
    assert run([0.5] * 4, vectors, 4, 1.0).positions.tolist() == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_each_choice_has_the_largest_marginal_relevance(seed: int, count: int, k: int, diversity: float) -> None:
    generator = np.random.default_rng(seed)
    relevances = np.sort(generator.uniform(-1, 1, count))[::-1].tolist()
    vectors = unit_vectors(count, seed, 3)
    chosen = run(relevances, vectors, k, diversity)
    order = chosen.positions.tolist()
    assert len(order) == len(set(order)) == min(k, count)
    for number, row in enumerate(order):
        before = order[:number]
        own = marginal(relevances, vectors, before, row, diversity)
        assert chosen.marginal_relevances[number] == pytest.approx(own, abs=_TOLERANCE)
        others = [marginal(relevances, vectors, before, each, diversity) for each in range(count) if each not in before]
        assert own >= max(others) - _TOLERANCE


def greedy(values: Sequence[Sequence[Sequence[object]]], sizes: Sequence[int], k: int) -> list[int]:
    """The first candidates whose groups all have room: `values` are those of each candidate, by attribute."""
    counts = [Counter[object]() for _ in sizes]
    chosen: list[int] = []
    for row in range(len(values[0]) if values else 0):
        groups = [set(each[row]) for each in values]
        if len(chosen) < k and all(
            count[value] < size for count, size, own in zip(counts, sizes, groups, strict=True) for value in own
        ):
            chosen.append(row)
            for count, own in zip(counts, groups, strict=True):
                count.update(own)
    return chosen


_LISTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=12, max_size=12)
_STRINGS = st.lists(st.sampled_from(["x", "y", "z", None]), min_size=12, max_size=12)


@settings(max_examples=100, deadline=None)
@given(_LISTS, _STRINGS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 14))
def test_full_groups_are_passed_over(
    lists: list[list[str]], strings: list[str | None], most_a: int, most_b: int, k: int
) -> None:
    columns: tuple[Column, ...] = (StringListColumn.of(lists), StringColumn.of(strings))
    groups = [groups_of(column, size, 12) for column, size in zip(columns, (most_a, most_b), strict=True)]
    chosen = run(np.linspace(1, 0, 12), np.zeros((0, 2)), k, 0.0, groups)
    values = [lists, [[] if value is None else [value] for value in strings]]
    assert chosen.positions.tolist() == greedy(values, (most_a, most_b), k)


def test_groups_of_numbers_are_of_equal_ones() -> None:
    years = IntColumn.of([2**60, 2**60 + 1, 2**60, None, None, 2**60 + 1])
    chosen = run(np.linspace(1, 0, 6), np.zeros((0, 2)), 6, 0.0, [groups_of(years, 1, 6)])
    assert chosen.positions.tolist() == [0, 1, 3, 4]
    prices = FloatColumn.of([0.0, -0.0, 1.5, None, 1.5, 2.5])
    chosen = run(np.linspace(1, 0, 6), np.zeros((0, 2)), 6, 0.0, [groups_of(prices, 1, 6)])
    assert chosen.positions.tolist() == [0, 2, 3, 5]


def test_diversity_and_group_limits_together() -> None:
    count, diversity = 30, 0.4
    vectors, relevances = unit_vectors(count, 5, 3), np.linspace(1, 0, count).tolist()
    values = [row % 4 for row in range(count)]
    chosen = run(relevances, vectors, 20, diversity, [groups_of(IntColumn.of(values), 3, count)]).positions.tolist()
    assert len(chosen) == 12  # 3 of each of the 4 values
    assert set(Counter(values[row] for row in chosen).values()) == {3}
    for number, row in enumerate(chosen):
        before = chosen[:number]
        sizes = Counter(values[each] for each in before)
        allowed = [each for each in range(count) if each not in before and sizes[values[each]] < 3]
        best = max(marginal(relevances, vectors, before, each, diversity) for each in allowed)
        assert marginal(relevances, vectors, before, row, diversity) >= best - _TOLERANCE


def test_pauses_often_where_there_is_much_to_compare() -> None:
    vectors = unit_vectors(2000, 1, 64)
    steps = choose(np.linspace(1, 0, 2000), vectors, 100, 0.5)
    assert sum(1 for _ in steps) >= 10  # 100 products of 2,000 times 64, at most 1,000,000 multiplications a step


def test_pauses_often_where_candidates_have_many_values() -> None:
    # All hold tag 0, so that the first one fills a group of all others, which are looked at and passed over.
    lists = [["tag 0", *(f"tag {1 + (row * 7 + n) % 3000}" for n in range(299))] for row in range(1000)]
    columns = [counted_lists(lists), counted_lists(lists)]
    for sizes, total in (((1, 1), 1000 * 300 + 300), ((1000, 1), 2 * 1000 * 300)):
        groups = [groups_of(column, size, 1000) for column, size in zip(columns, sizes, strict=True)]
        steps = reads_of(choose(np.linspace(1, 0, 1000), np.zeros((0, 2)), 1000, 0.0, groups), columns)
        assert steps.total == total  # each value is read once at most, those after a full group not at all
        assert steps.largest <= 5000  # at 200 multiplications for each, at most 1,000,000 a step


def test_no_candidates() -> None:
    assert run([], np.zeros((0, 3), dtype=np.float32), 5, 0.5).positions.tolist() == []
