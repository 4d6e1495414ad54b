"""FAISS indexes that hold each vector in fewer bytes, and score what they find with the exact vectors.

| storage | bytes a number | how                                                                             |
|---------|----------------|---------------------------------------------------------------------------------|
| float16 | 2              | IEEE 754 half precision                                                         |
| int8    | 1              | 256 steps between the least and the largest value of each dimension (a scalar   |
|         |                | quantiser)                                                                      |

The index ranks by the coarse vectors, so it fetches a few more candidates than asked for. Their scores are then
computed from ``vectors.npy``, which is mapped, and the best are returned: scores are exact, and a near item is lost
only if its coarse score is far too low.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from retrieval.index.faiss_index import FaissIndex, HnswIndex, IvfIndex
from retrieval.index.hits import Hits
from retrieval.index.scan import best, score

QUANTISERS = {"float16": "QT_fp16", "int8": "QT_8bit"}
"""Names of FAISS's scalar quantisers, by storage."""
_OVERSAMPLING = {"float16": 1.1, "int8": 1.25}
"""Candidates that are fetched for each hit (benchmarks/index/storage.py)."""
_ROWS_A_CANDIDATE = 2.0
"""Number of rows that an exact scan reads in the time of one exact score of a candidate."""


class _Coarse(FaissIndex):
    """Base of the indexes with coarse vectors. Subclasses also derive from the index of the same structure."""

    _storage: ClassVar[str]

    def __init__(self, path: Path, vectors: np.ndarray) -> None:
        """Maps the file; see `retrieval.index.faiss_index.FaissIndex`."""
        super().__init__(path, vectors)
        self._vectors = vectors

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        """Returns the hits of each query; see `retrieval.index.registry.Index.search`."""
        _, rows = self._search(queries, self._candidate_count(k), budget)  # [n, candidates]
        rows.sort(axis=1)  # in order of memory, and so that of equal scores the earlier row comes first
        results: list[Hits] = []
        for query, candidates in zip(queries, rows, strict=True):
            found = candidates[np.searchsorted(candidates, 0) :]  # an empty position is row -1
            results.append(best(found, score(self._vectors, found, query), k))
        return results

    def cost(self, k: int, budget: int) -> float:
        """Returns the cost of a search; see `retrieval.index.registry.Index.cost`."""
        return super().cost(k, budget) + _ROWS_A_CANDIDATE * self._candidate_count(k)

    def _candidate_count(self, k: int) -> int:
        return min(self._item_count, math.ceil(_OVERSAMPLING[self._storage] * k))

    def _check_vectors(self, vectors: np.ndarray) -> None:
        expected = getattr(self._faiss.ScalarQuantizer, QUANTISERS[self._storage])
        if self._quantiser.qtype != expected:
            raise ValueError(f"it holds vectors in another storage than {self._storage}")
        super()._check_vectors(vectors)

    @property
    def _quantiser(self) -> Any:
        raise NotImplementedError


class _CoarseHnsw(_Coarse, HnswIndex):
    _letters = b"IHNs"
    _class_name = "IndexHNSWSQ"

    @property
    def _quantiser(self) -> Any:
        return self._faiss.downcast_index(self._index.storage).sq

    def _stored(self, vector: np.ndarray) -> np.ndarray:
        return self._quantiser.decode(self._quantiser.compute_codes(vector[np.newaxis]))[0]


class _CoarseIvf(_Coarse, IvfIndex):
    _letters = b"IwSq"
    _class_name = "IndexIVFScalarQuantizer"

    @property
    def _quantiser(self) -> Any:
        return self._index.sq

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        return self._quantiser.compute_codes(vectors)


class Float16HnswIndex(_CoarseHnsw):
    """A graph of near neighbours over vectors as float16."""

    _storage = "float16"


class Int8HnswIndex(_CoarseHnsw):
    """A graph of near neighbours over vectors as int8."""

    _storage = "int8"


class Float16IvfIndex(_CoarseIvf):
    """Inverted lists of vectors as float16."""

    _storage = "float16"
    _number_bytes = 2


class Int8IvfIndex(_CoarseIvf):
    """Inverted lists of vectors as int8."""

    _storage = "int8"
    _number_bytes = 1
