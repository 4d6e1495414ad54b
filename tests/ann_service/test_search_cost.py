"""Cost and recall of searches with filters and exclusions, for every kind of index."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ann_service.bitsets import Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.search import run
from retrieval.index.hits import Hits
from retrieval.index.registry import Index
from tests.index_kinds import BUDGETS, ITEMS, VECTORS, every_kind, opened
from tests.worlds import item_table, unit_vectors

QUERIES = unit_vectors(30, 6, 16)
K = 20


class Counted:
    """An index that records the searches it gets."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.calls: list[tuple[int, int, int]] = []
        self.cost, self.raise_budget = index.cost, index.raise_budget

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        self.calls.append((len(queries), k, budget))
        return self._index.search(queries, k, budget)


def catalogue(kind: str) -> tuple[Catalogue, Counted]:
    index = Counted(opened(kind))
    manifest: Any = SimpleNamespace(item_count=ITEMS)
    return Catalogue(manifest, item_table(10), VECTORS, index), index


def plan(kind: str, query: np.ndarray, allowed: Matches | None = None, **fields: Any) -> SearchPlan:
    plain = {"k": K, "excluded": np.zeros(0, np.int64), "min_score": None, "exact": False, "budget": BUDGETS[kind]}
    return SearchPlan(query=query, allowed=allowed, **{**plain, **fields})


def find(where: Catalogue, search: SearchPlan) -> Hits:
    return run(where, [search])[0]


def matches(mask: np.ndarray) -> Matches:
    return Matches.of(pack(mask), ITEMS, with_rows=True)


def recall(where: Catalogue, kind: str, mask: np.ndarray | None, **fields: Any) -> float:
    allowed = None if mask is None else matches(mask)
    excluded = set(fields.get("excluded", np.zeros(0)).tolist())
    hits = wanted = 0
    for query in QUERIES:
        rows, _ = find(where, plan(kind, query, allowed, **fields))
        order = np.argsort(-(VECTORS.astype(np.float64) @ query), kind="stable").tolist()
        exact = [row for row in order if (mask is None or mask[row]) and row not in excluded][:K]
        hits, wanted = hits + len(set(rows.tolist()) & set(exact)), wanted + len(exact)
        assert len(rows) == len(exact)
    return hits / wanted


@every_kind
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("how", ["spread evenly", "of a region"])
def test_a_filter_returns_k_items_with_at_least_the_recall_without_it(kind: str, share: float, how: str) -> None:
    where, _ = catalogue(kind)
    value = np.random.default_rng(1).random(ITEMS) if how == "spread evenly" else VECTORS[:, 0]
    assert recall(where, kind, value <= np.quantile(value, share)) >= recall(where, kind, None) - 0.005


@every_kind
def test_exclusions_near_and_far_return_k_items_with_the_recall_without_them(kind: str) -> None:
    where, _ = catalogue(kind)
    plain = recall(where, kind, None)
    assert 0.7 < plain < 1.0
    far = np.sort(np.random.default_rng(2).choice(ITEMS, 10_000, replace=False))
    near = np.sort(np.argsort(-(VECTORS @ QUERIES[0]))[:500])
    for excluded in (far, near):
        assert recall(where, kind, None, excluded=excluded) >= plain - 0.01


@every_kind
def test_without_a_filter_the_index_runs_with_the_budget_of_the_request(kind: str) -> None:
    where, index = catalogue(kind)
    find(where, plan(kind, QUERIES[0]))
    assert index.calls == [(1, K, BUDGETS[kind])]


def test_exclusions_use_the_index_though_it_costs_more_than_a_fifth_of_the_scan() -> None:
    where, index = catalogue("annoy")
    # 1,500 nodes cost 2,000 + 5 * 1,500 = 9,500 rows: less than the 30,000 of a scan, more than a fifth of them.
    assert 6000 < index.cost(K, 1500) < 30_000
    far = np.sort(np.argsort(VECTORS @ QUERIES[0])[:1000])
    for excluded in (np.zeros(0, np.int64), far):
        rows, _ = find(where, plan("annoy", QUERIES[0], excluded=excluded, budget=1500))
        assert not set(rows.tolist()) & set(excluded.tolist())
    assert [k for _, k, _ in index.calls] == [20, 52]  # 32 more for exclusions that are near


@pytest.mark.parametrize(("excluded_count", "more"), [(10, 10), (60, 60), (100, 100), (1000, 100), (1001, 32)])
def test_up_to_k_exclusions_of_a_history_are_expected_near_the_query(excluded_count: int, more: int) -> None:
    where, index = catalogue("annoy")
    far = np.sort(np.argsort(VECTORS @ QUERIES[0])[:excluded_count])
    find(where, plan("annoy", QUERIES[0], k=100, excluded=far, budget=1500))
    assert [k for _, k, _ in index.calls] == [100 + more]


def test_many_searches_share_a_scan_where_each_alone_uses_the_index() -> None:
    where, index = catalogue("annoy")
    # 9,500 rows: less than the 30,000 of a scan for one, more than the 0.2 + 0.8 / 30 of it that each of 30 shares.
    plans = [plan("annoy", query, budget=1500) for query in QUERIES]
    run(where, plans[:2])
    assert index.calls == [(2, K, 1500)]
    answers = run(where, plans)
    assert index.calls == [(2, K, 1500)]
    for query, (rows, _) in zip(QUERIES, answers, strict=True):
        assert set(rows.tolist()) == set(np.argsort(-(VECTORS @ query))[:K].tolist())


@every_kind
def test_a_rare_filter_never_uses_the_index(kind: str) -> None:
    where, index = catalogue(kind)
    find(where, plan(kind, QUERIES[0], matches(np.arange(ITEMS) % 1000 == 3)))
    assert index.calls == []


def test_a_common_filter_fetches_more_from_the_index_at_no_more_than_a_fifth_of_the_scan() -> None:
    where, index = catalogue("faiss_ivf")
    find(where, plan("faiss_ivf", QUERIES[0], matches(np.arange(ITEMS) % 10 != 3), k=5, budget=2))
    assert len(index.calls) == 1
    _, fetched, budget = index.calls[0]
    assert fetched > 5
    assert budget > 2
    # 27,000 items match, which is most: the scan would read all 30,000.
    assert sum(index.cost(k, b) for _, k, b in index.calls) <= 0.2 * 30_000


def test_a_batch_uses_the_index_once_and_answers_in_order() -> None:
    where, index = catalogue("faiss_ivf")
    plans = [plan("faiss_ivf", query) for query in QUERIES]
    plans[4] = plan("faiss_ivf", QUERIES[4], exact=True)
    together = run(where, plans)
    assert {call[1:] for call in index.calls} == {(K, BUDGETS["faiss_ivf"])}
    assert sum(query_count for query_count, _, _ in index.calls) == 29
    assert len(index.calls) <= 3  # in steps of a millisecond or two
    for one, (rows, scores) in zip(plans, together, strict=True):
        alone_rows, alone_scores = find(where, one)
        assert rows.tolist() == alone_rows.tolist()
        np.testing.assert_allclose(scores, alone_scores, atol=1e-6)


def test_a_scan_answers_if_the_index_finds_too_few() -> None:
    where, index = catalogue("faiss_ivf")
    rows, _ = find(where, plan("faiss_ivf", QUERIES[0], k=2000, budget=1))
    assert len(rows) == 2000
    assert len(index.calls) == 1
