"""The kinds of index, their interface, and the function that opens a file of any kind.

| kind       | structure                                                 | search budget                            |
|------------|-----------------------------------------------------------|------------------------------------------|
| annoy      | Annoy's forest of random projection trees                 | ``search_k``: nodes to inspect           |
| faiss_hnsw | FAISS's graph (Malkov and Yashunin 2016) over the vectors | ``efSearch``: candidates to keep         |
| faiss_ivf  | FAISS's inverted lists of the nearest k-means centroids   | ``nprobe``: lists to scan                |

Both FAISS kinds hold the vectors as float32. ``faiss_hnsw_float16``, ``faiss_hnsw_int8``, ``faiss_ivf_float16`` and
``faiss_ivf_int8`` hold them in fewer bytes (`retrieval.index.faiss_storage`), and are alike otherwise.

A larger budget has a higher recall and takes longer. A file is checked before the first search: kind, metric,
dimension, item count, and a sample of its vectors. None of the formats holds code: both libraries read numbers into
arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.index.annoy_index import AnnoyIndex
from retrieval.index.faiss_index import HnswIndex, IvfIndex
from retrieval.index.faiss_storage import Float16HnswIndex, Float16IvfIndex, Int8HnswIndex, Int8IvfIndex
from retrieval.index.hits import Hits

METRIC = "angular"
"""The only metric: the angle, which orders unit vectors as the dot product does."""


class Index(Protocol):
    """An approximate nearest neighbour index. Immutable once open, and safe for several threads.

    Its file is mapped, so it must not change while the object lives. Dropping the last reference unmaps it.
    """

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        """Returns for each query up to `k` near rows and their exact scores.

        Args:
            queries: [n, dimension] float32, unit length.
            k: number of hits, 1 to item_count.
            budget: search budget, at least 1, in the unit of the kind. A small one may give fewer than `k` hits.
        """
        ...

    def cost(self, k: int, budget: int) -> float:
        """Returns the estimated time of one search, as the number of rows that an exact scan reads in that time."""
        ...

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget that gives `fetch` hits with at least the recall that `budget` gives for `k` hits."""
        ...


KINDS: Mapping[str, Callable[[Path, np.ndarray], Index]] = {
    "annoy": AnnoyIndex,
    "faiss_hnsw": HnswIndex,
    "faiss_ivf": IvfIndex,
    "faiss_hnsw_float16": Float16HnswIndex,
    "faiss_hnsw_int8": Int8HnswIndex,
    "faiss_ivf_float16": Float16IvfIndex,
    "faiss_ivf_int8": Int8IvfIndex,
}


STRUCTURES = ("annoy", "faiss_hnsw", "faiss_ivf")
"""The kinds that hold the vectors as float32, which a recipe names as ``index.kind``."""


def open_index(kind: str, metric: str, path: Path, vectors: np.ndarray) -> Index:
    """Returns the index in a file, mapped.

    Args:
        kind: one of `KINDS`.
        metric: `METRIC`.
        path: index file, whose size and hash are verified.
        vectors: [item_count, dimension] float32, unit length: the vectors that the index was built from.

    Raises:
        ValueError: kind or metric is unknown, or the file is not an index of these vectors.
        OSError: the file cannot be mapped.
        FaissMissing: it is a FAISS file and faiss-cpu is not installed.
    """
    if kind not in KINDS or metric != METRIC:
        raise ValueError(f"it is {kind} {metric}; known are {', '.join(KINDS)}, all {METRIC}")
    return KINDS[kind](path, vectors)
