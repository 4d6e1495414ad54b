"""Annoy: a forest of random projection trees."""

from __future__ import annotations

import math
import shutil
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex as _Annoy

from retrieval.index.errors import IndexBuildError
from retrieval.index.hits import Hits
from retrieval.index.threads import map_over_threads

SAMPLED_ROWS = 256
"""Number of vectors of a file that are compared with ``vectors.npy`` when it is opened."""

_ROWS_A_NODE = 5
"""Number of rows that an exact scan reads in the time that Annoy takes for one inspected node.

Measured (benchmarks/index/kinds.py): 8 on one thread that has the memory's bandwidth to itself, 4 where other threads
scan too.
"""
_ROWS_A_SEARCH = 2000
"""Number of rows that an exact scan reads in the fixed time of one search."""

_BUDGET_GROWTH = 0.8
"""At equal recall, the budget grows as the number of results to this power (benchmarks/index/filters.py)."""

ON_DISK_FROM = 200_000
"""Item count from which Annoy builds in the file, not in memory; the file is the same, but its pages can be evicted."""

_ROWS_AT_ONCE = 20_000
"""Number of rows between two reports of progress."""
_NODE_BYTES_A_ROW_AND_TREE = 0.12
"""Size of Annoy's inner nodes for each row and tree, as a share of the size of a row; measured: 0.08 at 64-d."""


class AnnoyIndex:
    """A `retrieval.index.registry.Index` over an Annoy file. Scores come from Annoy's distances and are exact to 1e-6.

    The file is never unloaded, since that would crash a query in another thread. Dropping the last reference unmaps it.
    """

    def __init__(self, path: Path, vectors: np.ndarray) -> None:
        """Maps the file.

        Annoy does not check what it maps: a file of another metric or dimension crashes the process at the first query.
        So its vectors are compared with `vectors` before the first search; reading them is safe.

        Args:
            path: index file, already verified. Hashing it has left it in the page cache; mapping a file that is not
                cached would hold the GIL for long.
            vectors: [item_count, dimension] float32, unit length.

        Raises:
            ValueError: the file is not an angular index of these vectors.
            OSError: the file cannot be mapped.
        """
        item_count, dimension = vectors.shape
        self._annoy = _Annoy(dimension, "angular")
        self._annoy.load(str(path))
        if self._annoy.get_n_items() != item_count:
            raise ValueError(f"it holds {self._annoy.get_n_items()} items, expected {item_count}")
        for row in sample_rows(item_count).tolist():
            if not np.array_equal(np.array(self._annoy.get_item_vector(row), dtype=np.float32), vectors[row]):
                raise ValueError(f"its vector {row} is not that of vectors.npy: another metric, dimension or catalogue")

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        """Returns the hits of each query; see `retrieval.index.registry.Index.search`."""

        def search_one(query: np.ndarray) -> Hits:
            # Annoy releases the GIL, and sorts by distance, ties by row.
            row_list, distance_list = self._annoy.get_nns_by_vector(query.tolist(), k, budget, include_distances=True)
            # NumPy reads an array.array faster than a list.
            distances = np.frombuffer(array("f", distance_list), dtype=np.float32)
            # |q - v|² = 2 - 2 q·v of unit vectors.
            scores = np.maximum(1.0 - 0.5 * distances * distances, -1.0)
            return Hits(np.frombuffer(array("q", row_list), dtype=np.int64), scores)

        return map_over_threads(search_one, queries)  # pyright: ignore[reportArgumentType]

    def cost(self, k: int, budget: int) -> float:
        """Returns the cost of a search; see `retrieval.index.registry.Index.cost`."""
        return _ROWS_A_SEARCH + _ROWS_A_NODE * max(budget, k)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget for more results; see `retrieval.index.registry.Index.raise_budget`."""
        return math.ceil(budget * max(1.0, fetch / k) ** _BUDGET_GROWTH)


def sample_rows(item_count: int) -> np.ndarray:
    """Returns up to `SAMPLED_ROWS` evenly spaced rows, including the first and the last: [n] int64, ascending."""
    return np.unique(np.linspace(0, item_count - 1, SAMPLED_ROWS, dtype=np.int64))


def write(parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Callable[[str], None]) -> None:
    """Writes an index file; see `retrieval.index.build.build_file`."""
    trees = parameters["trees"]
    item_count, dimension = vectors.shape
    index = _Annoy(dimension, "angular")
    on_disk = item_count >= ON_DISK_FROM
    try:
        if on_disk:
            _check_space(path.parent, item_count, dimension, trees)
            index.on_disk_build(str(path))
        index.set_seed(parameters["seed"] or 1)  # to Annoy, 0 means that no seed is given
        for row, vector in enumerate(vectors):
            if row % _ROWS_AT_ONCE == 0:
                tell(f"adding row {row:,} of {item_count:,}")
            index.add_item(row, vector)
        tell(f"growing {trees} trees")
        index.build(trees, n_jobs=1)
        if not on_disk:
            index.save(str(path))
    except OSError as error:
        raise IndexBuildError(f"cannot write the index to {path}: {error}") from error
    finally:
        index.unload()


def _check_space(folder: Path, item_count: int, dimension: int, trees: int) -> None:
    """Checks that the disk has room for the index, since writing to a mapped file on a full disk kills the process.

    Raises:
        IndexBuildError: the disk is too small.
    """
    needed = round(item_count * 4 * (dimension + 3) * (1 + _NODE_BYTES_A_ROW_AND_TREE * trees))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise IndexBuildError(
            f"an index of {item_count:,} items and {trees} trees needs about {needed >> 20:,} MiB in {folder}, "
            f"{free >> 20:,} MiB are free; make room, or take fewer trees (index.trees)"
        )
