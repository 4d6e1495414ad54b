"""Queries of several embeddings against the largest score in plain Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ann_index.exact import scan
from ann_index.interests import merge, scan_all, score_all, search_all
from ann_index.kinds import open_index
from tests.worlds import build_index, unit_vectors

VECTORS = unit_vectors(3000, 5)
INTERESTS = unit_vectors(12, 9).reshape(4, 3, 8)


def largest(vectors: np.ndarray, interests: np.ndarray) -> list[float]:
    return [max(float(np.dot(v.astype(np.float64), i)) for i in interests) for v in vectors]


def test_an_item_has_the_largest_of_its_scores() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    queries = np.array([[[1, 0], [0.6, 0.8]], [[0, -1], [0.8, -0.6]]], dtype=np.float32)
    # Query 0: max(1, .6), max(0, .8), max(-1, -.6); query 1: max(0, .8), max(-1, -.6), max(0, -.8).
    expected = [[1.0, 0.8, -0.6], [0.8, -0.6, 0.0]]
    np.testing.assert_allclose(score_all(queries, vectors), expected, atol=1e-7)
    np.testing.assert_array_equal(score_all(queries[:, 1], vectors), queries[:, 1] @ vectors.T)


@pytest.mark.parametrize("k", [1, 7, 3000, 4000])
def test_the_scan_of_each_interest_holds_the_best_of_all(k: int) -> None:
    for (rows, scores), interests in zip(scan_all(VECTORS, INTERESTS, k), INTERESTS, strict=True):
        expected = largest(VECTORS, interests)
        assert len(rows) == min(k, 3000) == len(set(rows.tolist()))
        np.testing.assert_allclose(scores, sorted(expected, reverse=True)[:k], atol=1e-6)
        np.testing.assert_allclose(scores, np.array(expected)[rows], atol=1e-6)


def test_one_embedding_a_query_is_scanned_as_before() -> None:
    for (rows, scores), (own_rows, own_scores) in zip(
        scan_all(VECTORS, INTERESTS[:, 0], 9), scan(VECTORS, INTERESTS[:, 0], 9), strict=True
    ):
        np.testing.assert_array_equal(rows, own_rows)
        np.testing.assert_array_equal(scores, own_scores)


def test_a_row_found_for_the_lesser_interest_keeps_its_best_score() -> None:
    vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
    interests = np.array([[0.8, 0.6], [0, 1]], dtype=np.float32)
    # The search of the second interest missed row 1, which has 1.0 with it; that of the first found it with 0.6.
    found = [(np.array([0, 1]), np.array([0.8, 0.6], "f")), (np.array([0]), np.array([0.0], "f"))]
    rows, scores = merge(vectors, interests, found, 5)
    assert rows.tolist() == [1, 0]
    np.testing.assert_allclose(scores, [1.0, 0.8], atol=1e-6)


def test_the_merged_search_finds_at_least_the_share_that_single_searches_find(tmp_path: Path) -> None:
    build_index(VECTORS, tmp_path / "index")
    index = open_index("annoy", "angular", tmp_path / "index", VECTORS)
    single = merged = 0
    for interests in unit_vectors(90, 3).reshape(30, 3, 8):
        exact = scan(VECTORS, interests, 50)
        found = index.search(interests, 50, 400)
        single += sum(len(set(a.tolist()) & set(b.tolist())) for (a, _), (b, _) in zip(exact, found, strict=True))
        ((rows, _),) = search_all(index, VECTORS, interests[np.newaxis], 50, 400)
        best = np.argsort(-np.array(largest(VECTORS, interests)))[:50]
        merged += len(set(rows.tolist()) & set(best.tolist()))
    assert single < 30 * 3 * 50  # the budget is so small that the index misses some
    assert merged / (30 * 50) >= single / (30 * 3 * 50)
