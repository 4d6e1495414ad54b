"""Recall of an index, on vectors whose nearest rows are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.bundle.manifest import IndexSpec
from retrieval.index.build import build_file
from retrieval.index.hits import Hits
from retrieval.index.recall import exact_top_k, index_recall, measure_recall
from tests.worlds import unit_vectors


def test_exact_top_k_is_by_dot_product_best_first() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    queries = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    # Scores: 1, 0, 0.6 and 0, 1, 0.8.
    assert exact_top_k(queries, vectors, 2).tolist() == [[0, 2], [1, 2]]
    assert exact_top_k(queries, vectors, 9).tolist() == [[0, 2, 1], [1, 2, 0]]


class FixedIndex:
    """An index that returns rows 0, 1, 2 … for every query, as many as the budget."""

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        return [Hits(np.arange(min(k, budget)), np.ones(min(k, budget), np.float32))] * len(queries)

    def cost(self, k: int, budget: int) -> float:
        return float(budget)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        return budget


def test_recall_is_the_mean_share_of_the_exact_rows_that_are_found() -> None:
    exact = np.array([[2, 1, 0, 9], [8, 7, 6, 0]])
    queries = np.zeros((2, 3), dtype=np.float32)
    # Rows 0 to 3 hold 3 of the first 4 exact rows and 1 of the second 4; row 0 alone holds 1 of each.
    assert index_recall(FixedIndex(), queries, exact, budget=4) == 0.5
    assert index_recall(FixedIndex(), queries, exact, budget=1) == 0.25


def test_recall_of_a_file_depends_on_its_budget_and_is_0_for_other_vectors(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(1000, seed=1), unit_vectors(20, seed=2)
    parameters = {"trees": 5, "seed": 3}
    build_file("annoy", parameters, vectors, tmp_path / "index")
    full = IndexSpec("annoy", "angular", parameters, 10**6, 1.0)
    assert measure_recall(tmp_path / "index", vectors, queries, full) == 1.0
    assert 0.0 < measure_recall(tmp_path / "index", vectors, queries, replace(full, search_budget=100)) < 1.0
    assert measure_recall(tmp_path / "index", unit_vectors(1000, seed=4), queries, full) == 0.0
