"""The Annoy index: built, and its size and search budget chosen by measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex

from bundle.manifest import IndexSpec
from trainer.errors import ExportError

NEIGHBOURS = 100
"""Recall is measured on so many neighbours."""


def exact_top_k(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k largest dot products, best first: [n, min(k, item_count)] int64.

    Args:
        queries: [n, dim] float32.
        vectors: [item_count, dim] float32.
        k: how many.
    """
    found: list[np.ndarray] = []
    for start in range(0, len(queries), 256):
        scores = queries[start : start + 256] @ vectors.T  # [256, item_count]
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def build(
    vectors: np.ndarray, queries: np.ndarray, path: Path, *, trees: Sequence[int], min_recall: float, seed: int
) -> IndexSpec:
    """Writes the index of the cheapest setting that finds enough, and returns how to search it.

    Cheap is, first, a small search budget (nodes inspected: the time of a search), then few trees (memory). One build
    job, so that the same vectors and seed give the same bytes.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length, held out: recall is measured on them.
        path: file to make.
        trees: numbers of trees to try.
        min_recall: of the exact 100 nearest, the share to find.
        seed: of the build.

    Raises:
        ExportError: the index cannot be written.
    """
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    best: tuple[int, int, float] | None = None  # budget, trees, recall
    for count in sorted(trees):
        index = _build(vectors, count, seed)
        limit = math.inf if best is None else best[0]
        for budget in _budgets(len(vectors), count):
            if budget >= limit:
                break
            recall = _recall(index, queries, exact, budget)
            if recall >= min_recall:
                best = (budget, count, recall)
                break
    if best is None:
        raise ExportError(f"no index of {sorted(trees)} trees reaches recall {min_recall}; add more to index.trees")
    budget, count, recall = best
    _save(_build(vectors, count, seed), path)
    return IndexSpec("annoy", "angular", {"trees": count, "seed": seed}, budget, recall)


def rebuild(vectors: np.ndarray, queries: np.ndarray, path: Path, *, old: IndexSpec, min_recall: float) -> IndexSpec:
    """Writes the index of changed vectors with the trees and seed of the old one, and returns how to search it.

    The search budget is the old one, raised by a quarter at a time where it finds too little.

    Args:
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length: recall is measured on them.
        path: file to make.
        old: of the index before.
        min_recall: of the exact 100 nearest, the share to find.

    Raises:
        ExportError: the index cannot be written.
    """
    trees, seed = old.parameters["trees"], old.parameters["seed"]
    exact = exact_top_k(queries, vectors, NEIGHBOURS)
    index = _build(vectors, trees, seed)
    budgets = [old.search_budget, *(b for b in _budgets(len(vectors), trees) if b > old.search_budget)]
    recalls = ((budget, _recall(index, queries, exact, budget)) for budget in budgets)
    budget, recall = next(((b, r) for b, r in recalls if r >= min_recall), (0, 0.0))
    if not budget:  # the gate will say that even the last one finds too little
        budget, recall = budgets[-1], _recall(index, queries, exact, budgets[-1])
    _save(index, path)
    return IndexSpec(old.kind, old.metric, {"trees": trees, "seed": seed}, budget, recall)


def measure_recall(path: Path, vectors: np.ndarray, queries: np.ndarray, budget: int) -> float:
    """Returns the share of the exact 100 nearest that a written index finds.

    Args:
        path: of the index, written by this process.
        vectors: [item_count, dim] float32, that it should be of.
        queries: [n, dim] float32, unit length.
        budget: nodes to inspect.
    """
    index = AnnoyIndex(vectors.shape[1], "angular")
    index.load(str(path))
    return _recall(index, queries, exact_top_k(queries, vectors, NEIGHBOURS), budget)


def _save(index: AnnoyIndex, path: Path) -> None:
    try:
        index.save(str(path))
    except OSError as error:
        raise ExportError(f"cannot write the index to {path}: {error}") from error


def _build(vectors: np.ndarray, trees: int, seed: int) -> AnnoyIndex:
    index = AnnoyIndex(vectors.shape[1], "angular")
    index.set_seed(seed or 1)  # Annoy takes 0 for "no seed given"
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(trees, n_jobs=1)
    return index


def _budgets(item_count: int, trees: int) -> list[int]:
    """Returns the budgets to try, ascending by a quarter; the last one inspects every leaf of every tree."""
    last = max(NEIGHBOURS, 2 * item_count * trees)
    count = math.ceil(math.log(last / NEIGHBOURS, 1.25))
    return [*(int(NEIGHBOURS * 1.25**step) for step in range(count)), last]


def _recall(index: AnnoyIndex, queries: np.ndarray, exact: np.ndarray, budget: int) -> float:
    """Returns the mean share of each row of `exact` [n, k] that the index finds."""
    k = exact.shape[1]
    found = [
        len(set(index.get_nns_by_vector(q, k, budget)) & set(e)) for q, e in zip(queries, exact.tolist(), strict=True)
    ]
    return sum(found) / (k * len(found))
