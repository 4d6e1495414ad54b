"""Searches that leave items out, for every kind of index, beside those of the ANN service and the exact answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.search import run
from retrieval.index.leaving_out import search_without
from tests.index_kinds import BUDGETS, ITEMS, VECTORS, every_kind, opened
from tests.worlds import item_table, unit_vectors

K = 20
QUERIES = unit_vectors(24, 6, 16)


def nearest(query: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows of the exact nearest items, ascending by row."""
    return np.sort(np.argsort(-(VECTORS @ query), kind="stable")[:count])


def exclusions() -> list[np.ndarray]:
    """Returns rows to leave out of each query: none, some of anywhere, the nearest ones, many, and all but a few."""
    generator = np.random.default_rng(8)
    rows: list[np.ndarray] = []
    for number, query in enumerate(QUERIES):
        kinds = (
            np.zeros(0, dtype=np.int64),
            np.sort(generator.permutation(ITEMS)[:30]),
            nearest(query, 60),
            np.sort(generator.permutation(ITEMS)[:5000]),
            nearest(query, 4000),
            np.sort(generator.permutation(ITEMS)[: ITEMS - 3]),
        )
        rows.append(kinds[number % len(kinds)].astype(np.int64))
    return rows


@every_kind
def test_finds_what_the_ann_service_finds_for_each_search_alone(kind: str) -> None:
    manifest: Any = SimpleNamespace(item_count=ITEMS)
    catalogue = Catalogue(manifest, item_table(10), VECTORS, opened(kind))
    excluded = exclusions()
    together = search_without(opened(kind), VECTORS, QUERIES, K, BUDGETS[kind], excluded)
    for query, rows, hits in zip(QUERIES, excluded, together, strict=True):
        plan = SearchPlan(query, K, None, rows, None, exact=False, budget=BUDGETS[kind])
        [alone] = run(catalogue, [plan])
        assert hits.rows.tolist() == alone.rows.tolist()
        np.testing.assert_allclose(hits.scores, alone.scores, atol=1e-6)


@every_kind
def test_returns_k_items_that_are_not_to_leave_out_or_all_that_are_left(kind: str) -> None:
    excluded = exclusions()
    for rows, hits in zip(
        excluded, search_without(opened(kind), VECTORS, QUERIES, K, BUDGETS[kind], excluded), strict=True
    ):
        assert len(set(hits.rows.tolist())) == len(hits.rows) == min(K, ITEMS - len(rows))
        assert not set(hits.rows.tolist()) & set(rows.tolist())
        assert (np.diff(hits.scores) <= 0).all()


@every_kind
def test_nothing_is_left_of_a_catalogue_that_is_left_out(kind: str) -> None:
    [hits] = search_without(opened(kind), VECTORS, QUERIES[:1], K, BUDGETS[kind], [np.arange(ITEMS)])
    assert (hits.rows.tolist(), hits.scores.tolist()) == ([], [])


def test_a_small_catalogue_is_scanned() -> None:
    vectors = unit_vectors(1000, 9, 16)
    excluded = [np.arange(0, 1000, 2), np.zeros(0, dtype=np.int64)]
    index: Any = None  # not used
    found = search_without(index, vectors, QUERIES[:2], K, 1, excluded)
    for query, rows, hits in zip(QUERIES[:2], excluded, found, strict=True):
        order = np.argsort(-(vectors @ query), kind="stable")
        assert hits.rows.tolist() == order[~np.isin(order, rows)][:K].tolist()
