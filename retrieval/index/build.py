"""Builds index files of the kinds of `retrieval.index.registry`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from annoy import AnnoyIndex

from retrieval.index.errors import IndexBuildError
from retrieval.index.faiss_index import import_faiss

Tell = Callable[[str], None]
"""Function that is called with a few words when a step of a build begins."""

ON_DISK_FROM = 200_000
"""Item count from which Annoy builds in the file, not in memory; the file is the same, but its pages can be evicted."""

_ROWS_AT_ONCE = 20_000
"""Number of rows between two calls of `Tell`."""
_TRAINING_ROWS_A_LIST = 64
"""Rows that k-means is trained on, for each list. More rows take longer and hardly move the centroids."""
_NODE_BYTES_A_ROW_AND_TREE = 0.12
"""Size of Annoy's inner nodes for each row and tree, as a share of the size of a row; measured: 0.08 at 64-d."""


def default_lists(item_count: int) -> int:
    """Returns the default number of inverted lists: about 4 sqrt(item_count)."""
    return max(1, min(item_count, round(4 * math.sqrt(item_count))))


def build_file(
    kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell = lambda step: None
) -> None:
    """Writes an index file. One thread builds it, so that equal vectors and parameters give equal bytes.

    Args:
        kind: kind of index, see `retrieval.index.registry`.
        parameters: ``seed``, and ``trees`` (annoy), ``links`` and ``ef_construction`` (faiss_hnsw) or ``lists``
            (faiss_ivf).
        vectors: [item_count, dim] float32, unit length.
        path: file to make.
        tell: called with the name of each step.

    Raises:
        IndexBuildError: the file cannot be written.
        FaissMissing: it is a FAISS index and faiss-cpu is not installed.
    """
    if kind == "annoy":
        _build_annoy(parameters, vectors, path, tell)
    else:
        _build_faiss(kind, parameters, vectors, path, tell)


def _build_annoy(parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell) -> None:
    trees = parameters["trees"]
    item_count, dimension = vectors.shape
    index = AnnoyIndex(dimension, "angular")
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
    """Raises IndexBuildError if the disk is too small: writing to a mapped file on a full disk kills the process."""
    needed = round(item_count * 4 * (dimension + 3) * (1 + _NODE_BYTES_A_ROW_AND_TREE * trees))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise IndexBuildError(
            f"an index of {item_count:,} items and {trees} trees needs about {needed >> 20:,} MiB in {folder}, "
            f"{free >> 20:,} MiB are free; make room, or take fewer trees (index.trees)"
        )


def _build_faiss(kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell) -> None:
    faiss = import_faiss()
    item_count, dimension = vectors.shape
    threads = faiss.omp_get_max_threads()
    # With more threads, nodes are linked and centroids summed in an order that differs from run to run.
    faiss.omp_set_num_threads(1)
    try:
        if kind == "faiss_hnsw":
            index = faiss.IndexHNSWFlat(dimension, parameters["links"], faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = parameters["ef_construction"]
            index.hnsw.rng = faiss.RandomGenerator(parameters["seed"])
        else:
            index = _train_lists(faiss, parameters, vectors, tell)
        for start in range(0, item_count, _ROWS_AT_ONCE):
            tell(f"adding row {start:,} of {item_count:,}")
            index.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE]))
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise IndexBuildError(f"cannot write the index to {path}: {error}") from error
    finally:
        faiss.omp_set_num_threads(threads)


def _train_lists(faiss: Any, parameters: Mapping[str, int], vectors: np.ndarray, tell: Tell) -> Any:
    """Returns a trained, empty `faiss.IndexIVFFlat`; it owns its quantizer."""
    item_count, dimension = vectors.shape
    lists = parameters["lists"]
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.seed = parameters["seed"]
    index.cp.min_points_per_centroid = 1  # no warning about small catalogues
    index.cp.max_points_per_centroid = _TRAINING_ROWS_A_LIST
    sampled = min(item_count, lists * _TRAINING_ROWS_A_LIST)
    rows = np.random.default_rng(parameters["seed"]).permutation(item_count)[:sampled]
    tell(f"choosing {lists:,} centroids from {sampled:,} rows")
    index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
    return index
