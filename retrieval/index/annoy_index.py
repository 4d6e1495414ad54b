"""Annoy: a forest of random projection trees."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex as _Annoy

from retrieval.index.scan import Found
from retrieval.index.threads import map_over_threads

SAMPLED_ROWS = 256
"""How many vectors a reader compares."""

_ROWS_A_NODE = 5
"""An exact scan reads so many rows in the time that Annoy takes for one inspected node.

8 on one thread with all of the memory's bandwidth to itself (benchmarks/index/kinds.py), 4 where other threads scan too.
"""
_ROWS_A_SEARCH = 2000

_BUDGET_GROWTH = 0.8
"""Exponent of the budget in the number of rows to be found at the same recall (benchmarks/index/filters.py)."""


class AnnoyIndex:
    """See `retrieval.index.registry.Index`. Scores are those of Annoy's distances, which hold to 1e-6.

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
        self._annoy = _Annoy(dimension, "angular")
        self._annoy.load(str(path))
        if self._annoy.get_n_items() != item_count:
            raise ValueError(f"it holds {self._annoy.get_n_items()} items, expected {item_count}")
        for row in sample_rows(item_count).tolist():
            if not np.array_equal(np.array(self._annoy.get_item_vector(row), dtype=np.float32), vectors[row]):
                raise ValueError(f"its vector {row} is not that of vectors.npy: another metric, dimension or catalogue")

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Found]:
        """Returns near rows and their scores; see `retrieval.index.registry.Index.search`."""

        def search_one(query: np.ndarray) -> Found:
            # Lets the GIL go. Sorted by distance, ties by row.
            rows, distances = self._annoy.get_nns_by_vector(query.tolist(), k, budget, include_distances=True)
            # NumPy takes an array in less time than a list.
            far = np.frombuffer(array("f", distances), dtype=np.float32)
            # |q - v|² = 2 - 2 q·v of unit vectors.
            return np.frombuffer(array("q", rows), dtype=np.int64), np.maximum(1.0 - 0.5 * far * far, -1.0)

        return map_over_threads(search_one, queries)  # pyright: ignore[reportArgumentType]

    def cost(self, k: int, budget: int) -> float:
        """Returns the time of a search in rows of a scan; see `retrieval.index.registry.Index.cost`."""
        return _ROWS_A_SEARCH + _ROWS_A_NODE * max(budget, k)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget for more rows; see `retrieval.index.registry.Index.raise_budget`."""
        return math.ceil(budget * max(1.0, fetch / k) ** _BUDGET_GROWTH)


def sample_rows(item_count: int) -> np.ndarray:
    """Returns up to `SAMPLED_ROWS` rows, evenly spread, the first and the last among them: [n] int64, ascending."""
    return np.unique(np.linspace(0, item_count - 1, SAMPLED_ROWS, dtype=np.int64))
