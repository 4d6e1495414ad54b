"""The kinds of index, and the one way to open a file of any of them.

| kind       | is                                                        | budget of a search                       |
|------------|-----------------------------------------------------------|------------------------------------------|
| annoy      | Annoy's forest of random projection trees                 | ``search_k``: nodes to inspect           |
| faiss_hnsw | FAISS's graph (Malkov and Yashunin 2016) over the vectors | ``efSearch``: candidates to keep at hand |
| faiss_ivf  | FAISS's inverted lists of the nearest k-means centroids   | ``nprobe``: lists to scan                |

A larger budget finds more and takes longer, whatever the kind. No file is trusted: a reader checks kind, metric,
dimension and item count, and compares vectors, before anything searches. None of the formats holds code: both
libraries read numbers into arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.index.annoy_index import AnnoyIndex
from retrieval.index.faiss_index import HnswIndex, IvfIndex
from retrieval.index.scan import Found

METRIC = "angular"
"""The one metric: by the angle, which orders unit vectors as the dot product does."""


class Index(Protocol):
    """Finds near rows, approximately. Safe for several threads; never changes once it is open.

    Its file has to stay as it is for as long as the object lives, since it is mapped; dropping the last reference
    unmaps it.
    """

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Found]:
        """Returns for each query up to `k` of the nearest rows and their exact scores.

        Args:
            queries: [n, dimension] float32, unit length.
            k: 1 to item_count.
            budget: at least 1, in the unit of the kind; where it is small, fewer than `k` rows may come back.
        """
        ...

    def cost(self, k: int, budget: int) -> float:
        """Returns how long one search takes, about, as the number of rows that an exact scan reads meanwhile."""
        ...

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget that finds `fetch` rows with at least the recall that `budget` has for `k`."""
        ...


KINDS: Mapping[str, Callable[[Path, np.ndarray], Index]] = {
    "annoy": AnnoyIndex,
    "faiss_hnsw": HnswIndex,
    "faiss_ivf": IvfIndex,
}


def open_index(kind: str, metric: str, path: Path, vectors: np.ndarray) -> Index:
    """Returns the index in a file, mapped.

    Args:
        kind: one of `KINDS`.
        metric: `METRIC`.
        path: of the file, its size and hash already verified.
        vectors: [item_count, dimension] float32, unit length, that it should be of.

    Raises:
        ValueError: another kind or metric, or the file is none of these vectors.
        OSError: it cannot be mapped.
        retrieval.index.faiss_index.FaissMissing: it is a FAISS file and the package is not installed.
    """
    if kind not in KINDS or metric != METRIC:
        raise ValueError(f"it is {kind} {metric}; known are {', '.join(KINDS)}, all {METRIC}")
    return KINDS[kind](path, vectors)
