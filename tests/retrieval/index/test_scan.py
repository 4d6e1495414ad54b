"""The exact scan against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index import scan as scan_module
from retrieval.index.scan import best, scan
from tests.worlds import unit_vectors

VECTORS = unit_vectors(500, 3)
VECTORS[90] = VECTORS[12]  # a tie, across blocks


def test_best_keeps_the_earlier_of_rows_that_tie_at_the_edge() -> None:
    rows, scores = best(np.array([2, 5, 6, 9]), np.array([0.5, 0.7, 0.5, 0.5], dtype=np.float32), 2)
    assert rows.tolist() == [5, 2]
    assert scores.tolist() == [np.float32(0.7), 0.5]


def brute_force(query: np.ndarray, k: int, rows: list[int]) -> list[int]:
    return sorted(rows, key=lambda row: (-float(VECTORS[row].astype(np.float64) @ query), row))[:k]


@settings(max_examples=60)
@given(
    count=st.integers(1, 9),
    k=st.integers(1, 40),
    share=st.sampled_from([None, 0.02, 0.5]),
    hide=st.booleans(),
    cells=st.sampled_from([1, 400, 2**21]),
    at_once=st.sampled_from([2, 64]),
    first=st.sampled_from([8, 8192]),
)
def test_finds_what_plain_python_finds_whatever_the_blocks(
    count: int, k: int, share: float | None, hide: bool, cells: int, at_once: int, first: int
) -> None:
    queries = unit_vectors(count, 11)
    chosen = np.random.default_rng(count).random(500)
    allowed = None if share is None else np.flatnonzero(chosen < share).astype(np.int32)
    hidden = chosen > 0.7 if hide and allowed is None else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "_SCORES_AT_ONCE", cells)
        patch.setattr(scan_module, "_QUERIES_AT_ONCE", at_once)
        patch.setattr(scan_module, "_ROWS_GATHERED", 7)
        patch.setattr(scan_module, "_FIRST_ROWS", first)
        results = scan(VECTORS, queries, k, allowed=allowed, hidden=hidden)
    rows = set(range(500)) if allowed is None else set(allowed.tolist())
    rows -= set() if hidden is None else set(np.flatnonzero(hidden).tolist())
    assert len(results) == count
    for query, (found_rows, scores) in zip(queries, results, strict=True):
        expected = brute_force(query, k, sorted(rows))
        assert set(found_rows.tolist()) <= rows
        assert len(set(found_rows.tolist())) == len(found_rows) == len(expected)
        # Equal but for neighbours whose scores float32 cannot tell apart.
        np.testing.assert_allclose(scores, VECTORS[expected] @ query, atol=1e-6)
        np.testing.assert_allclose(scores, VECTORS[found_rows] @ query, atol=1e-6)


@pytest.mark.parametrize(("cells", "first"), [(1, 8192), (2**21, 8192), (2**21, 8)])
def test_of_rows_that_tie_the_smaller_comes_first(cells: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_SCORES_AT_ONCE", cells)
    monkeypatch.setattr(scan_module, "_FIRST_ROWS", first)
    queries = VECTORS[[12, 40]]
    assert scan(VECTORS, queries, 5)[0].rows.tolist()[:2] == [12, 90]
    assert scan(VECTORS, queries, 1)[0].rows.tolist() == [12]
    assert scan(VECTORS, queries, 1, hidden=np.arange(500) == 12)[0].rows.tolist() == [90]


@pytest.mark.parametrize(("cells", "first"), [(1, 8), (2**21, 8192), (400, 8)])
def test_each_query_has_its_own_k(cells: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_SCORES_AT_ONCE", cells)
    monkeypatch.setattr(scan_module, "_FIRST_ROWS", first)
    monkeypatch.setattr(scan_module, "_QUERIES_AT_ONCE", 3)
    queries = unit_vectors(5, 11)
    ks = [3, 1, 499, 40, 1000]
    results = scan(VECTORS, queries, ks)
    for query, k, (rows, _) in zip(queries, ks, results, strict=True):
        assert rows.tolist() == scan(VECTORS, query[np.newaxis], k)[0].rows.tolist()
        assert len(rows) == min(k, 500)
