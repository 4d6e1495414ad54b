"""Writes the files of the FAISS indexes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.index.errors import IndexBuildError
from retrieval.index.faiss_index import import_faiss
from retrieval.index.faiss_storage import QUANTISERS

_ROWS_AT_ONCE = 20_000
"""Number of rows between two reports of progress."""
_TRAINING_ROWS_A_LIST = 64
"""Rows that k-means is trained on, for each list. More rows take longer and hardly move the centroids."""
_TRAINING_ROWS = 100_000
"""Rows from which the range of each dimension is learned, where vectors are stored as int8."""


def write(
    kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Callable[[str], None]
) -> None:
    """Writes an index file; see `retrieval.index.build.build_file`."""
    faiss = import_faiss()
    structure, storage = split_kind(kind)
    threads = faiss.omp_get_max_threads()
    # With more threads, nodes are linked and centroids summed in an order that differs from run to run.
    faiss.omp_set_num_threads(1)
    try:
        if structure == "faiss_hnsw":
            index = _empty_graph(faiss, storage, parameters, vectors)
        else:
            index = _train_lists(faiss, storage, parameters, vectors, tell)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            tell(f"adding row {start:,} of {len(vectors):,}")
            index.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE]))
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise IndexBuildError(f"cannot write the index to {path}: {error}") from error
    finally:
        faiss.omp_set_num_threads(threads)


def split_kind(kind: str) -> tuple[str, str]:
    """Returns the structure and the storage of a FAISS kind; ``faiss_ivf_int8`` is ``("faiss_ivf", "int8")``."""
    storage = next((name for name in QUANTISERS if kind.endswith(f"_{name}")), "float32")
    return kind.removesuffix(f"_{storage}"), storage


def _empty_graph(faiss: Any, storage: str, parameters: Mapping[str, int], vectors: np.ndarray) -> Any:
    """Returns an empty graph of this storage, whose quantiser is trained."""
    dimension, links, metric = vectors.shape[1], parameters["links"], faiss.METRIC_INNER_PRODUCT
    if storage == "float32":
        index = faiss.IndexHNSWFlat(dimension, links, metric)
    else:
        index = faiss.IndexHNSWSQ(dimension, _quantiser(faiss, storage), links, metric)
        index.train(_sample(vectors, _TRAINING_ROWS, parameters["seed"]))
    index.hnsw.efConstruction = parameters["ef_construction"]
    index.hnsw.rng = faiss.RandomGenerator(parameters["seed"])
    return index


def _train_lists(
    faiss: Any, storage: str, parameters: Mapping[str, int], vectors: np.ndarray, tell: Callable[[str], None]
) -> Any:
    """Returns empty inverted lists of this storage, with trained centroids and quantiser; they own the centroids."""
    dimension, lists, metric = vectors.shape[1], parameters["lists"], faiss.METRIC_INNER_PRODUCT
    centroids = faiss.IndexFlatIP(dimension)
    if storage == "float32":
        index = faiss.IndexIVFFlat(centroids, dimension, lists, metric)
    else:  # the vectors themselves, not what is left of them without their centroid, which would take longer to score
        index = faiss.IndexIVFScalarQuantizer(centroids, dimension, lists, _quantiser(faiss, storage), metric, False)
    index.own_fields = True
    centroids.this.disown()
    index.cp.seed = parameters["seed"]
    index.cp.min_points_per_centroid = 1  # no warning about small catalogues
    index.cp.max_points_per_centroid = _TRAINING_ROWS_A_LIST
    sample = _sample(vectors, lists * _TRAINING_ROWS_A_LIST, parameters["seed"])
    tell(f"choosing {lists:,} centroids from {len(sample):,} rows")
    index.train(sample)
    return index


def _quantiser(faiss: Any, storage: str) -> int:
    return getattr(faiss.ScalarQuantizer, QUANTISERS[storage])


def _sample(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns up to `count` vectors drawn without replacement, in their order: [n, dimension] float32."""
    rows = np.random.default_rng(seed).permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[np.sort(rows)])
