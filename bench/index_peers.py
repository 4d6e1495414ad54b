"""Peers in process: hnswlib, and Qdrant's engine. The extra ``bench`` installs both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_UPSERTED_AT_ONCE = 5000


@dataclass(frozen=True, eq=False)
class Peer:
    """A built index of another library.

    Attributes:
        name: for the table.
        build_s: seconds.
        bytes_per_item: on disk.
        budgets: to try, ascending.
        search: takes [1, dim] float32, k and a budget; returns the rows found.
    """

    name: str
    build_s: float
    bytes_per_item: float
    budgets: tuple[int, ...]
    search: Callable[[np.ndarray, int, int], list[int]]


def build_hnswlib(vectors: np.ndarray, folder: Path) -> Peer:
    """Returns hnswlib's graph, M = 16, ef_construction = 100, one thread."""
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100, random_seed=1)
    index.set_num_threads(1)
    index.add_items(vectors)
    build_s = time.perf_counter() - started
    index.save_index(str(folder / "hnswlib"))
    size = (folder / "hnswlib").stat().st_size

    def search(query: np.ndarray, k: int, budget: int) -> list[int]:
        index.set_ef(budget)  # of the whole index: two threads could not search with different ones
        return index.knn_query(query, k)[0][0].tolist()

    return Peer("hnswlib, M 16", build_s, size / len(vectors), (100, 125, 156, 195, 244, 305, 381, 476), search)


def build_qdrant(vectors: np.ndarray, folder: Path) -> Peer:
    """Returns Qdrant's segment, m = 16, ef_construct = 100, optimised, without payloads."""
    import qdrant_edge as qdrant

    root = folder / "qdrant"
    root.mkdir()
    started = time.perf_counter()
    config = qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(size=vectors.shape[1], distance=qdrant.Distance.Dot),
        hnsw_config=qdrant.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10),
        optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
        max_search_threads=1,
    )
    shard: Any = qdrant.EdgeShard.create(str(root), config)
    for start in range(0, len(vectors), _UPSERTED_AT_ONCE):
        part = vectors[start : start + _UPSERTED_AT_ONCE].tolist()
        points = [qdrant.Point(id=start + at, vector=vector, payload={}) for at, vector in enumerate(part)]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    build_s = time.perf_counter() - started
    size = sum(os.path.getsize(Path(at) / name) for at, _, names in os.walk(root) for name in names)

    def search(query: np.ndarray, k: int, budget: int) -> list[int]:
        request = qdrant.QueryRequest(
            query=qdrant.Query.Nearest(query[0].tolist()),
            limit=k,
            params=qdrant.SearchParams(hnsw_ef=budget),
            with_payload=False,
            with_vector=False,
        )
        return [hit.id for hit in shard.query(request)]

    return Peer("qdrant-edge, m 16", build_s, size / len(vectors), (100, 125, 156, 195, 244, 305, 381, 476), search)
