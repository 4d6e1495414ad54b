"""The candidates of a reranking: from lists of hits, by score plus boosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ann_service.bitsets import Matches, pack
from ann_service.plan import Boost, Reranking, SearchPlan
from ann_service.reranking.rerank import rerank
from retrieval.index.hits import Hits
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = 40
_CATALOGUE: Any = SimpleNamespace()  # neither attributes nor vectors are read without facets and diversity


@dataclass(frozen=True, eq=False)
class CountedMatches(Matches):
    """Matches that record of how many rows they were asked."""

    asked: list[int] = field(default_factory=list[int])

    def contains(self, rows: np.ndarray) -> np.ndarray:
        self.asked.append(len(rows))
        return super().contains(rows)


def plan_of(k: int, limit: int, weights: list[float], matches: list[Matches]) -> SearchPlan:
    boosts = [Boost(pb.Filter(), weight, each, each) for weight, each in zip(weights, matches, strict=True)]
    return SearchPlan(np.zeros(0), k, None, np.zeros(0), None, False, 1, reranking=Reranking(limit, tuple(boosts)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_candidates_are_the_best_of_the_pool_by_score_plus_boosts(data: st.DataObject) -> None:
    # Quarters, so that many items tie and no sum is rounded.
    quarters = st.integers(-4, 4).map(lambda number: number / 4)
    scores = np.array(data.draw(st.lists(quarters, min_size=ITEMS, max_size=ITEMS)), dtype=np.float32)
    rows = st.lists(st.integers(0, ITEMS - 1), unique=True)
    weights = data.draw(st.lists(quarters.filter(bool), min_size=1, max_size=3))
    own = [set(data.draw(rows)) for _ in weights]
    matches = [Matches.of(pack(np.isin(np.arange(ITEMS), [*each])), ITEMS, with_rows=False) for each in own]
    lists = [data.draw(rows) for _ in range(1 + len(weights))]
    limit = data.draw(st.integers(1, ITEMS))

    def total(row: int) -> float:
        return float(scores[row]) + sum(weight for weight, each in zip(weights, own, strict=True) if row in each)

    pool = dict.fromkeys(row for each in lists for row in each)
    expected = sorted(pool, key=lambda row: -total(row))[:limit]  # of equal ones, the first in the lists
    hits = [Hits(np.array(each, dtype=np.int64), scores[each]) for each in lists]
    result = run_to_end(rerank(_CATALOGUE, plan_of(ITEMS, limit, weights, matches), hits))
    assert result.rows.tolist() == expected
    assert result.scores.tolist() == scores[expected].tolist()
    np.testing.assert_allclose(result.more.boosts, [total(row) - scores[row] for row in expected])
    assert result.more.candidate_count == len(expected)


def test_pauses_after_each_list() -> None:
    count, size = 5000, 1000
    bits = pack(np.arange(count) % 2 == 0)
    matches = CountedMatches(bits, count, count // 2)
    lists = [Hits(np.arange(start, start + size), np.zeros(size, dtype=np.float32)) for start in range(0, count, size)]
    steps = rerank(_CATALOGUE, plan_of(10, size, [0.5], [matches]), lists)
    asked = [0, *(sum(matches.asked) for _ in steps), sum(matches.asked)]
    assert asked[-1] == count
    assert max(np.diff(asked)) == size
