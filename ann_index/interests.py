"""Queries of several embeddings, the interests of one user: an item's score is the largest of its scores.

Whoever holds queries of either form calls the functions here: [n, dimension] are queries of one embedding, answered as
`ann_index.exact` and the index do; [n, interests, dimension] are queries of several.

The `k` best rows of every single interest hold the `k` best of all: a row that comes before another with the interest
that likes the other best comes before it in the merged order too. So nothing more than `k` is fetched for each, and a
row stands at least as high with its own interest as it does in the merged order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ann_index.exact import Found, best, scan
from ann_index.kinds import Index


def score_all(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Returns the score of each item with each query: [n, item_count] float32.

    Args:
        queries: [n, dimension] or [n, interests, dimension] float32, unit length.
        vectors: [item_count, dimension] float32, unit length.
    """
    if queries.ndim == 2:
        return queries @ vectors.T  # [n, item_count]
    scores = queries[:, 0] @ vectors.T
    for number in range(1, queries.shape[1]):
        np.maximum(scores, queries[:, number] @ vectors.T, out=scores)
    return scores


def scan_all(vectors: np.ndarray, queries: np.ndarray, k: int) -> list[Found]:
    """Returns the exact `k` best rows and their scores for each query.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] or [n, interests, dimension] float32, unit length.
        k: at least 1.
    """
    return _merge_all(vectors, queries, scan(vectors, _each(queries), k), k)


def search_all(index: Index, vectors: np.ndarray, queries: np.ndarray, k: int, budget: int) -> list[Found]:
    """Returns for each query up to `k` of the nearest rows that an index finds, and their exact scores.

    Args:
        index: over `vectors`.
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] or [n, interests, dimension] float32, unit length.
        k: 1 to item_count.
        budget: as of `ann_index.kinds.Index.search`, for each embedding.
    """
    return _merge_all(vectors, queries, index.search(_each(queries), k, budget), k)


def merge(vectors: np.ndarray, interests: np.ndarray, found: Sequence[Found], k: int) -> Found:
    """Returns the `k` best rows of what was found for each interest of one query, each row once, with its best score.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        interests: [m, dimension] float32, unit length.
        found: [m], of these.
        k: at least 1.
    """
    rows = np.unique(np.concatenate([rows for rows, _ in found]))  # [n], ascending
    # Anew: an approximate search may have found a row for another interest than the one that likes it best.
    scores = np.max(np.take(vectors, rows, axis=0) @ interests.T, axis=1, initial=-1.0)  # [n]
    return best(rows, np.minimum(scores, np.float32(1.0)), k)


def _each(queries: np.ndarray) -> np.ndarray:
    """Returns the single embeddings: [n, dimension] or [n * interests, dimension]."""
    return queries.reshape(-1, queries.shape[-1])


def _merge_all(vectors: np.ndarray, queries: np.ndarray, found: list[Found], k: int) -> list[Found]:
    if queries.ndim == 2:
        return found
    count = queries.shape[1]
    return [
        merge(vectors, interests, found[number * count : (number + 1) * count], k)
        for number, interests in enumerate(queries)
    ]
