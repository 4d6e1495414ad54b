"""FAISS: a graph of neighbours, or inverted lists, mapped from disk.

Both hold a copy of every vector: as float32, or in fewer bytes (`retrieval.index.faiss_storage`).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.index import faiss_layout
from retrieval.index.annoy_index import sample_rows
from retrieval.index.errors import FaissMissing
from retrieval.index.hits import Hits

_HEADER = struct.Struct("<" + faiss_layout.HEADER)

_ROWS_A_SEARCH = 1500
"""Number of rows that an exact scan reads in the fixed time of one search."""
_ROWS_A_CANDIDATE = 80
"""Number of rows that an exact scan reads in the time of one step of the walk through the graph."""
_ROWS_A_LISTED_ROW = 1.0
"""Number of rows that an exact scan reads in the time of one row of an inverted list."""
_ROWS_A_RESULT = 10
"""Number of rows that an exact scan reads in the time that one more result takes."""

_LISTS_GROWTH = 1.2
"""At equal recall, the number of lists grows as the number of results to this power (benchmarks/index/filters.py)."""


def import_faiss() -> Any:
    """Returns the module ``faiss``.

    Raises:
        FaissMissing: the package is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise FaissMissing(
            f"an index of this kind needs the package faiss-cpu, which cannot be imported here ({error}); "
            "install the extra: pip install 'two-tower-retrieval[faiss]'"
        ) from error
    return faiss


class FaissIndex:
    """Base of the FAISS indexes; see `retrieval.index.registry.Index`.

    The budget is passed with each search, so that searches with different budgets can run at the same time.
    """

    _letters: bytes
    _class_name: str

    def __init__(self, path: Path, vectors: np.ndarray) -> None:
        """Maps the file.

        Args:
            path: index file, already verified.
            vectors: [item_count, dimension] float32, unit length.

        Raises:
            ValueError: the file is not an inner product index of this kind over these vectors.
            OSError: the file cannot be mapped.
            FaissMissing: the package is not installed.
        """
        self._faiss = import_faiss()
        self._item_count = len(vectors)
        self._check_header(path, vectors)
        faiss_layout.check_length(path)
        flags = self._faiss.IO_FLAG_MMAP_IFC | self._faiss.IO_FLAG_READ_ONLY
        try:
            self._index = self._faiss.read_index(str(path), flags)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read it: {error}") from error
        if type(self._index).__name__ != self._class_name or self._index.ntotal != len(vectors):
            raise ValueError(f"it is a {type(self._index).__name__}, expected a {self._class_name}")
        self._check_vectors(vectors)
        self._last_parameters: tuple[int, Any] = 0, None  # budget, FAISS object

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        """Returns the hits of each query; see `retrieval.index.registry.Index.search`."""
        scores, rows = self._search(queries, k, budget)
        # FAISS sorts by score alone. An empty position is row -1 with the worst score.
        if not (scores[:, 1:] < scores[:, :-1]).all():
            order = np.lexsort((rows, -scores), axis=-1)  # [n, k], by score, then by row
            rows, scores = np.take_along_axis(rows, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
        np.clip(scores, -1.0, 1.0, out=scores)
        counts = np.count_nonzero(rows >= 0, axis=-1).tolist()  # [n]
        return [Hits(r[:count], s[:count]) for r, s, count in zip(rows, scores, counts, strict=True)]

    def cost(self, k: int, budget: int) -> float:
        """Returns the cost of a search; see `retrieval.index.registry.Index.cost`."""
        raise NotImplementedError

    def _search(self, queries: np.ndarray, k: int, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and rows as FAISS finds them: [n, k] float32 and [n, k] int64, -1 in empty positions."""
        return self._index.search(np.ascontiguousarray(queries), k, params=self._cached_parameters(budget))

    def _cached_parameters(self, budget: int) -> Any:
        # Most searches have the budget of the bundle, and a new object takes a tenth of a short search. The pair is one
        # reference, which threads read and replace without a lock.
        last = self._last_parameters
        if last[0] != budget:
            last = self._last_parameters = budget, self._parameters(budget)
        return last[1]

    def _check_header(self, path: Path, vectors: np.ndarray) -> None:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise ValueError(f"it has {len(head)} bytes, less than a header")
        letters, dimension, item_count, _, _, _, metric = _HEADER.unpack(head)
        expected = (self._letters, vectors.shape[1], len(vectors), self._faiss.METRIC_INNER_PRODUCT)
        if (letters, dimension, item_count, metric) != expected:
            raise ValueError(
                f"its header says {letters!r}, dimension {dimension}, {item_count} items, metric {metric}; expected "
                "{!r}, dimension {}, {} items, metric {}".format(*expected)
            )

    def _check_vectors(self, vectors: np.ndarray) -> None:
        raise NotImplementedError

    def _parameters(self, budget: int) -> Any:
        raise NotImplementedError


class HnswIndex(FaissIndex):
    """A graph of near neighbours (Malkov and Yashunin 2016); the budget is ``efSearch``, the candidates of a search."""

    _letters = b"IHNf"
    _class_name = "IndexHNSWFlat"

    def _check_vectors(self, vectors: np.ndarray) -> None:
        for row in sample_rows(len(vectors)).tolist():
            if not np.array_equal(self._index.reconstruct(row), self._stored(vectors[row])):
                raise ValueError(f"its vector {row} is not that of vectors.npy: another catalogue")

    def _stored(self, vector: np.ndarray) -> np.ndarray:
        """Returns the vector that the index holds for a vector of the catalogue: [dimension] float32 each."""
        return vector

    def _parameters(self, budget: int) -> Any:
        return self._faiss.SearchParametersHNSW(efSearch=min(budget, self._item_count))

    def cost(self, k: int, budget: int) -> float:
        """Returns the cost of a search; see `retrieval.index.registry.Index.cost`."""
        return _ROWS_A_SEARCH + _ROWS_A_CANDIDATE * max(budget, k)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget for more results; see `retrieval.index.registry.Index.raise_budget`."""
        return math.ceil(budget * max(1.0, fetch / k))


class IvfIndex(FaissIndex):
    """Inverted lists (Sivic and Zisserman 2003): rows grouped by nearest centroid. ``nprobe`` lists are scanned."""

    _letters = b"IwFl"
    _class_name = "IndexIVFFlat"
    _number_bytes = 4

    def _check_vectors(self, vectors: np.ndarray) -> None:
        lists = self._faiss.downcast_InvertedLists(self._index.invlists)
        # A file whose lists are on disk names another file to read them from.
        if type(lists).__name__ != "ArrayInvertedLists" or lists.code_size != vectors.shape[1] * self._number_bytes:
            raise ValueError(f"its lists are {type(lists).__name__} of {lists.code_size} bytes a row")
        for number in sample_rows(lists.nlist).tolist():
            size = lists.list_size(number)
            if not size:
                continue
            rows = self._faiss.rev_swig_ptr(lists.get_ids(number), size)  # [size] int64
            codes = self._faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
            codes = codes.reshape(size, -1)  # [size, code_size] uint8
            if rows.min() < 0 or rows.max() >= len(vectors) or not np.array_equal(codes, self._codes(vectors[rows])):
                raise ValueError(f"list {number} holds other vectors than those of vectors.npy: another catalogue")

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the bytes that the index holds for vectors of the catalogue: [n, code_size] uint8."""
        return vectors.view(np.uint8)

    def _parameters(self, budget: int) -> Any:
        return self._faiss.SearchParametersIVF(nprobe=min(budget, self._index.nlist))

    def cost(self, k: int, budget: int) -> float:
        """Returns the cost of a search; see `retrieval.index.registry.Index.cost`."""
        lists = self._index.nlist
        scanned = min(budget, lists) * self._item_count / lists
        return _ROWS_A_SEARCH + lists + _ROWS_A_LISTED_ROW * scanned + _ROWS_A_RESULT * k

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        """Returns the budget for more results; see `retrieval.index.registry.Index.raise_budget`."""
        return math.ceil(budget * max(1.0, fetch / k) ** _LISTS_GROWTH)
