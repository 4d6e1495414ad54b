"""Nearest rows of a matrix of unit vectors: the exact scan, and the approximate index behind a seam.

A score is the cosine similarity, larger is nearer. Results are sorted by score, descending, ties by row, ascending.
Only this module knows Annoy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from annoy import AnnoyIndex as _Annoy

_SAMPLED_ROWS = 256


class Index(Protocol):
    """Finds near rows, approximately. Safe for several threads; never changes once it is open."""

    def search(self, query: np.ndarray, k: int, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns up to `k` of the nearest rows and their exact scores.

        Args:
            query: [dimension] float32, unit length.
            k: 1 to item_count.
            budget: nodes to inspect, 1 to 10,000,000; where it is small, fewer than `k` rows may come back.

        Returns:
            rows: [n] int64, distinct, n at most `k`.
            scores: [n] float32.
        """
        ...


class AnnoyIndex:
    """Annoy's forest of random projection trees; its candidates are scored anew on the vectors themselves.

    Never unloaded: that would crash a query in another thread. The last reference unmaps the file.
    """

    def __init__(self, path: Path, vectors: np.ndarray) -> None:
        """Maps the file.

        Annoy neither knows nor checks what it maps: a file of another metric or dimension crashes the process at the
        first query. Its vectors are compared with `vectors` here, which is safe, before anything searches it.

        Args:
            path: of the index, already verified: the hash pass has left it in the page cache, so that mapping it here
                does not hold the GIL for long.
            vectors: [item_count, dimension] float32, unit length.

        Raises:
            ValueError: it is no angular index of these vectors.
            OSError: it cannot be mapped.
        """
        item_count, dimension = vectors.shape
        self._vectors = vectors
        self._annoy = _Annoy(dimension, "angular")
        self._annoy.load(str(path))
        if self._annoy.get_n_items() != item_count:
            raise ValueError(f"it holds {self._annoy.get_n_items()} items, expected {item_count}")
        for row in np.unique(np.linspace(0, item_count - 1, _SAMPLED_ROWS, dtype=np.int64)).tolist():
            if not np.array_equal(np.array(self._annoy.get_item_vector(row), dtype=np.float32), vectors[row]):
                raise ValueError(f"its vector {row} is not that of vectors.npy: another metric, dimension or catalogue")

    def search(self, query: np.ndarray, k: int, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns near rows and their scores; see `Index.search`."""
        found = self._annoy.get_nns_by_vector(query, k, budget)
        rows = np.sort(np.array(found, dtype=np.int64))
        return best(rows, score(self._vectors, rows, query), k)


def score(vectors: np.ndarray, rows: np.ndarray | None, query: np.ndarray) -> np.ndarray:
    """Returns the cosine similarities of rows with a query: [n] float32.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        rows: [n] int64; None: all of them.
        query: [dimension] float32, unit length.
    """
    chosen = vectors if rows is None else vectors[rows]  # [n, dimension]
    return np.clip(chosen @ query, -1.0, 1.0).astype(np.float32, copy=False)  # [n]


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best rows and their scores, sorted; all where there are fewer.

    Args:
        rows: [n] int64, ascending.
        scores: [n] float32, of these rows.
        k: at least 1.
    """
    if k < len(rows):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        # All that tie with the last one are kept until the sort, so that the smaller rows win.
        kept = scores >= threshold
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:k]  # [k]
    return rows[order], scores[order]


def scan(
    vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the exact `k` best rows and their scores; see `Index.search`.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        query: [dimension] float32, unit length.
        k: at least 1.
        allowed: [n] int64, ascending: the rows to look at. Default: all.
    """
    rows = np.arange(len(vectors), dtype=np.int64) if allowed is None else allowed
    return best(rows, score(vectors, allowed, query), k)
