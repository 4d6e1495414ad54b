"""Builds an index file of any kind of `retrieval.index.registry`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex

from retrieval.index.faiss_index import FaissMissing, import_faiss
from trainer.errors import ExportError
from trainer.recipe.recipe import Index

Tell = Callable[[str], None]
"""Takes the name of the step that begins, in a few words."""

ON_DISK_FROM = 200_000
"""Items from which Annoy builds in the file instead of in memory: the same bytes, which the system may write out."""

_ROWS_AT_ONCE = 20_000
_TRAINING_ROWS_A_LIST = 64
"""Of k-means: more move the centroids little, and the time grows with them."""
_NODE_BYTES_A_ROW_AND_TREE = 0.12
"""Annoy's inner nodes, as a share of the size of a leaf's vector; 0.08 was measured at 64 dimensions."""


def parameter_grid(settings: Index, item_count: int, seed: int) -> list[dict[str, int]]:
    """Returns what to try, as `build_file` takes it, cheap ones first.

    Args:
        settings: of the recipe.
        item_count: rows.
        seed: of all builds.
    """
    match settings.kind:
        case "annoy":
            return [{"trees": trees, "seed": seed} for trees in sorted(settings.trees)]
        case "faiss_hnsw":
            return [
                {"links": links, "ef_construction": settings.ef_construction, "seed": seed}
                for links in sorted(settings.links)
            ]
        case _:
            numbers = settings.lists or (default_lists(item_count),)
            return [{"lists": lists, "seed": seed} for lists in sorted({min(n, item_count) for n in numbers})]


def default_lists(item_count: int) -> int:
    """Returns the number of inverted lists where a recipe names none: about 4 sqrt(item_count)."""
    return max(1, min(item_count, round(4 * math.sqrt(item_count))))


def build_file(
    kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell = lambda step: None
) -> None:
    """Writes an index; the same vectors and parameters give the same bytes, since one thread builds.

    Args:
        kind: of `retrieval.index.registry`.
        parameters: as of `parameter_grid`.
        vectors: [item_count, dim] float32, unit length.
        path: file to make.
        tell: called with the name of each step.

    Raises:
        ExportError: it cannot be written, or its package is missing.
    """
    try:
        if kind == "annoy":
            _build_annoy(parameters, vectors, path, tell)
        else:
            _build_faiss(kind, parameters, vectors, path, tell)
    except FaissMissing as error:
        raise ExportError(str(error)) from error


def _build_annoy(parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell) -> None:
    trees = parameters["trees"]
    item_count, dimension = vectors.shape
    index = AnnoyIndex(dimension, "angular")
    on_disk = item_count >= ON_DISK_FROM
    try:
        if on_disk:
            _check_space(path.parent, item_count, dimension, trees)
            index.on_disk_build(str(path))
        index.set_seed(parameters["seed"] or 1)  # Annoy takes 0 for "no seed given"
        for row, vector in enumerate(vectors):
            if row % _ROWS_AT_ONCE == 0:
                tell(f"adding row {row:,} of {item_count:,}")
            index.add_item(row, vector)
        tell(f"growing {trees} trees")
        index.build(trees, n_jobs=1)
        if not on_disk:
            index.save(str(path))
    except OSError as error:
        raise ExportError(f"cannot write the index to {path}: {error}") from error
    finally:
        index.unload()


def _check_space(folder: Path, item_count: int, dimension: int, trees: int) -> None:
    """Raises where the file may not fit: what writes to a mapped file on a full disk is killed, without an error."""
    needed = round(item_count * 4 * (dimension + 3) * (1 + _NODE_BYTES_A_ROW_AND_TREE * trees))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"an index of {item_count:,} items and {trees} trees needs about {needed >> 20:,} MiB in {folder}, "
            f"{free >> 20:,} MiB are free; make room, or take fewer trees (index.trees)"
        )


def _build_faiss(kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell) -> None:
    faiss = import_faiss()
    item_count, dimension = vectors.shape
    threads = faiss.omp_get_max_threads()
    # More threads link nodes, and add up centroids, in an order that differs from run to run.
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
        raise ExportError(f"cannot write the index to {path}: {error}") from error
    finally:
        faiss.omp_set_num_threads(threads)


def _train_lists(faiss, parameters: Mapping[str, int], vectors: np.ndarray, tell: Tell):
    """Returns a trained, empty `faiss.IndexIVFFlat`; it owns its quantizer."""
    item_count, dimension = vectors.shape
    lists = parameters["lists"]
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.seed = parameters["seed"]
    index.cp.min_points_per_centroid = 1  # what few items there are in a small catalogue is no reason to warn
    index.cp.max_points_per_centroid = _TRAINING_ROWS_A_LIST
    sampled = min(item_count, lists * _TRAINING_ROWS_A_LIST)
    rows = np.random.default_rng(parameters["seed"]).permutation(item_count)[:sampled]
    tell(f"choosing {lists:,} centroids from {sampled:,} rows")
    index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
    return index
