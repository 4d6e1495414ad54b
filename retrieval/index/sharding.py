"""Cuts the catalogue of a bundle that is being written into shards, and builds their indexes at the same time.

A shard has consecutive items, in a folder with the same files as the catalogue of an ordinary bundle. Words are scored
as in the whole catalogue: the lexical index is cut, not built anew. So the merged answer of all shards is that of one
catalogue, item by item.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue import slicing
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import (
    INDEX,
    ITEMS,
    LEXICAL,
    LEXICAL_DESCRIPTION,
    LEXICAL_FILES,
    POPULARITY,
    SHARDS,
    VECTORS,
)
from retrieval.bundle.manifest import IndexSpec
from retrieval.bundle.shard import Shard, shard_name
from retrieval.index.build import Tell, build_file
from retrieval.index.lexical import files as lexical_files
from retrieval.index.merged import part_paths
from retrieval.index.recall import NEIGHBOURS, exact_top_k, index_recall
from retrieval.index.registry import open_index


def split_catalogue(folder: Path, attributes: Mapping[str, str], shard_count: int) -> None:
    """Replaces the catalogue in the folder of a bundle by shards: vectors, items, popularity and lexical index.

    Args:
        folder: folder of a bundle that is being written, with an ordinary catalogue that has no index file yet.
        attributes: types of the item attributes by name.
        shard_count: number of shards, 2 to the number of items.

    Raises:
        ValueError: there are fewer items than shards.
    """
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    items = ItemTable.read(folder / ITEMS, attributes)
    if not 2 <= shard_count <= len(vectors):
        raise ValueError(f"{shard_count} shards of {len(vectors)} items, expected 2 to the number of items")
    popularity = np.load(folder / POPULARITY) if (folder / POPULARITY).exists() else None
    lexical = lexical_files.read(folder) if (folder / LEXICAL_DESCRIPTION).exists() else None
    for number, (start, stop) in enumerate(slicing.bounds_of(len(vectors), shard_count)):
        shard = folder / SHARDS / shard_name(number)
        shard.mkdir(parents=True)
        np.save(shard / VECTORS, vectors[start:stop], allow_pickle=False)
        own = slicing.cut(items, start, stop)
        own.write(shard / ITEMS)
        if popularity is not None:
            np.save(shard / POPULARITY, popularity[start:stop], allow_pickle=False)
        if lexical is not None:
            index = lexical.index.cut(start, stop)
            lexical_files.write_index(shard, index, lexical.attributes, own.texts(lexical.attributes), own.ids)
    for name in (VECTORS, ITEMS, POPULARITY, *LEXICAL_FILES):
        (folder / name).unlink(missing_ok=True)
    if lexical is not None:
        (folder / LEXICAL).rmdir()


def build_indexes(
    kind: str,
    parameters: Mapping[str, int],
    vectors: np.ndarray,
    path: Path,
    shard_count: int,
    tell: Tell = lambda step: None,
) -> None:
    """Writes the index file of each part of a catalogue, as many at the same time as there are cores.

    Args:
        kind: kind of index, see `retrieval.index.registry`.
        parameters: parameters of the build, see `retrieval.index.build.build_file`.
        vectors: [item_count, dim] float32, unit length: vectors of the whole catalogue.
        path: path of the index file in an ordinary bundle. Of a bundle in shards, the files of the shards are written,
            which `split_catalogue` has made.
        shard_count: number of shards; 1: the bundle is an ordinary one.
        tell: called with the name of each step.

    Raises:
        IndexBuildError: a file cannot be written.
        FaissMissing: it is a FAISS index and faiss-cpu is not installed.
    """
    if shard_count == 1:
        build_file(kind, parameters, vectors, path, tell)
        return
    paths = part_paths(path, shard_count)
    tell(f"building {shard_count} shards")
    process_count = min(shard_count, len(os.sched_getaffinity(0)))
    # Started anew, not forked: a fork of a process with the threads of TensorFlow may hang.
    with ProcessPoolExecutor(process_count, mp_context=get_context("spawn")) as processes:
        built = [processes.submit(_build, kind, dict(parameters), each) for each in paths]
        for number, each in enumerate(built, 1):
            each.result()
            tell(f"shard {number} of {shard_count} built")


def _build(kind: str, parameters: dict[str, int], path: Path) -> None:
    vectors = np.load(path.with_name(VECTORS), mmap_mode="r", allow_pickle=False).view(np.ndarray)
    build_file(kind, parameters, vectors, path)


def describe_shards(
    folder: Path, vectors: np.ndarray, queries: np.ndarray, spec: IndexSpec, shard_count: int
) -> tuple[Shard, ...]:
    """Returns what the manifest says of each shard, with the measured recall of its index; empty for one shard.

    Args:
        folder: folder of a bundle that is being written, in shards, with their indexes.
        vectors: [item_count, dim] float32, unit length: vectors of the whole catalogue.
        queries: [n, dim] float32, unit length: held-out queries on which recall is measured.
        spec: kind, metric and search budget of the indexes.
        shard_count: number of shards.
    """
    if shard_count == 1:
        return ()
    shards: list[Shard] = []
    bounds = slicing.bounds_of(len(vectors), shard_count)
    for number, (path, (start, stop)) in enumerate(zip(part_paths(folder / INDEX, shard_count), bounds, strict=True)):
        own = vectors[start:stop]
        index = open_index(spec.kind, spec.metric, path, own)
        recall = index_recall(index, queries, exact_top_k(queries, own, NEIGHBOURS), spec.search_budget)
        counts = path.with_name(POPULARITY)
        events = int(np.load(counts).sum(dtype=np.int64)) if counts.exists() else 0
        shards.append(Shard(shard_name(number), stop - start, events, recall))
    return tuple(shards)


def shard_slices(
    vectors: np.ndarray, ids: Sequence[str], shard_count: int
) -> list[tuple[str, np.ndarray, Sequence[str]]]:
    """Returns the folder in the bundle, the vectors and the ids of each shard; none for one shard.

    Args:
        vectors: [item_count, dim] float32, unit length.
        ids: [item_count] external ids.
        shard_count: number of shards.
    """
    if shard_count == 1:
        return []
    return [
        (f"{SHARDS}/{shard_name(number)}", vectors[start:stop], ids[start:stop])
        for number, (start, stop) in enumerate(slicing.bounds_of(len(vectors), shard_count))
    ]
