"""Measures recall and time of a bundle's index by search budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.manifest import IndexSpec
from retrieval.index.merged import open_indexes
from trainer.publishing.report.page_data import SearchCurve, SearchPoint

_NEIGHBOURS = 100
_MOST_QUERIES, _FEWEST_QUERIES = 200, 20
_SECONDS_A_BUDGET = 0.3
"""Time limit of each budget: in a large catalogue fewer queries are measured, so that publishing stays quick."""
_HALVINGS, _DOUBLINGS = 5, 2
"""Number of budgets below and above the published one."""


def measure_search(
    path: Path, vectors: np.ndarray, queries: np.ndarray, spec: IndexSpec, shard_count: int = 1
) -> SearchCurve | None:
    """Returns recall and time of the index at eight budgets around the published one, and the time of the exact scan.

    Returns None if the file is not an index of these vectors; then the gate ``ann_recall`` has failed.

    Args:
        path: Path of the index file in an ordinary bundle.
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length. At most 200 are searched, one at a time.
        spec: kind, metric and published search budget of the index.
        shard_count: Number of shards, which are searched one after the other; 1: the bundle is an ordinary one.
    """
    try:
        index = open_indexes(spec.kind, spec.metric, path, vectors, shard_count)
    except ValueError:
        return None
    k = min(_NEIGHBOURS, len(vectors))
    exact, exact_ms = _timed(lambda q: _scan(vectors, q, k), queries[:_MOST_QUERIES], 2 * _SECONDS_A_BUDGET)
    nearest = [set(rows.tolist()) for rows in exact]
    budgets = sorted({max(1, int(spec.search_budget * 2.0**power)) for power in range(-_HALVINGS, _DOUBLINGS + 1)})
    points: list[SearchPoint] = []
    for budget in budgets:
        results, times_ms = _timed(
            # `budget` is bound as a default: a closure would use the budget of a later round.
            lambda q, budget=budget: index.search(q[np.newaxis], k, budget)[0].rows.tolist(),
            queries[: len(exact)],
            _SECONDS_A_BUDGET,
        )
        hit_counts = [len(nearest[row].intersection(rows)) for row, rows in enumerate(results)]
        recall = sum(hit_counts) / (k * len(results))
        median_ms, p95_ms = float(np.median(times_ms)), float(np.percentile(times_ms, 95))
        points.append(SearchPoint(budget, recall, median_ms, p95_ms, len(results)))
    return SearchCurve(spec.kind, points, spec.search_budget, float(np.median(exact_ms)))


def _scan(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k largest dot products with one query [dim], in any order: [k] int64."""
    scores = vectors @ query  # [item_count]
    return np.argpartition(scores, len(scores) - k)[len(scores) - k :]


def _timed(search: Callable[[np.ndarray], Any], queries: np.ndarray, limit_s: float) -> tuple[list[Any], np.ndarray]:
    """Returns the results of [n, dim] queries and the milliseconds of each; fewer than n if the time limit is over."""
    results: list[Any] = []
    times_ms: list[float] = []
    search(queries[0])  # the first search of an index reads its pages
    started = time.perf_counter()
    for query in queries:
        before = time.perf_counter()
        results.append(search(query))
        times_ms.append(1000 * (time.perf_counter() - before))
        if len(results) >= _FEWEST_QUERIES and time.perf_counter() - started > limit_s:
            break
    return results, np.array(times_ms)
