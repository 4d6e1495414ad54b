"""Recall of an index: the share of the exact nearest rows that are among its results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.bundle.manifest import IndexSpec
from retrieval.index.merged import open_indexes
from retrieval.index.registry import Index
from retrieval.index.scan import scan

NEIGHBOURS = 100
"""Number of exact nearest rows that recall is measured on."""


def exact_top_k(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k largest dot products, best first: [n, min(k, item_count)] int64.

    Args:
        queries: [n, dim] float32, unit length.
        vectors: [item_count, dim] float32, unit length.
        k: number of rows for each query, at least 1.
    """
    return np.stack([hits.rows for hits in scan(vectors, queries, k)])


def index_recall(index: Index, queries: np.ndarray, exact: np.ndarray, budget: int) -> float:
    """Returns the mean recall of an open index over queries, 0 to 1.

    Args:
        index: index to measure.
        queries: [n, dim] float32, unit length.
        exact: [n, k] int64, the exact nearest rows of each query, as `exact_top_k` returns them.
        budget: search budget, in the unit of the index.
    """
    k = exact.shape[1]
    results = index.search(queries, k, budget)
    hit_count = sum(
        len(set(hits.rows.tolist()) & set(nearest)) for hits, nearest in zip(results, exact.tolist(), strict=True)
    )
    return hit_count / (k * len(queries))


def measure_recall(
    path: Path, vectors: np.ndarray, queries: np.ndarray, spec: IndexSpec, shard_count: int = 1
) -> float:
    """Returns the recall of an index file at its search budget, 0 to 1; 0 if it is not an index of these vectors.

    Args:
        path: path of the index file in an ordinary bundle, written by this process.
        vectors: [item_count, dim] float32, unit length.
        queries: [n, dim] float32, unit length.
        spec: kind, metric and search budget of the index.
        shard_count: number of shards, whose merged answer is measured; 1: the bundle is an ordinary one.
    """
    try:
        index = open_indexes(spec.kind, spec.metric, path, vectors, shard_count)
    except ValueError:
        return 0.0
    return index_recall(index, queries, exact_top_k(queries, vectors, NEIGHBOURS), spec.search_budget)
