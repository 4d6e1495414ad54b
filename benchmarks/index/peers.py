"""Indexes of other libraries, run in this process. The extra ``bench`` installs hnswlib and Qdrant's engine.

The local mode of Qdrant's client, which scans, and Milvus Lite, a Python Milvus over FAISS, are meant for prototypes.
They are measured for completeness; `python -m pip install -c constraints.txt qdrant-client milvus-lite` installs them.
"""

from __future__ import annotations

import os
import shutil
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
        name: Name of library and parameters, for the table.
        build_s: Time of the build in seconds.
        bytes_per_item: Size on disk per item, in bytes.
        budgets: Search budgets to try, ascending.
        search: Function from a query, [1, dim] float32, k and a budget to the rows of the results, best first.
        search_batch: Function from queries, [n, dim] float32, k and a budget to the rows of the results of each query,
            best first. None: the library has no such call.
    """

    name: str
    build_s: float
    bytes_per_item: float
    budgets: tuple[int, ...]
    search: Callable[[np.ndarray, int, int], list[int]]
    search_batch: Callable[[np.ndarray, int, int], list[list[int]]] | None = None


def build_hnswlib(vectors: np.ndarray, folder: Path) -> Peer:
    """Builds an hnswlib graph with one thread, M = 16 and ef_construction = 100, and returns it.

    Args:
        vectors: [item_count, dim] float32, unit length.
        folder: folder to write the index file to.
    """
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
        index.set_ef(budget)  # a setting of the whole index, so two threads cannot search with different budgets
        return index.knn_query(query, k)[0][0].tolist()

    return Peer("hnswlib, M 16", build_s, size / len(vectors), (100, 125, 156, 195, 244, 305, 381, 476), search)


def build_qdrant(vectors: np.ndarray, folder: Path) -> Peer:
    """Builds an optimised Qdrant segment without payloads, m = 16 and ef_construct = 100, and returns it.

    If `folder` holds a segment of an earlier call, that is opened instead, with a build time of 0.

    Args:
        vectors: [item_count, dim] float32, unit length.
        folder: folder of the segment.
    """
    import qdrant_edge as qdrant

    root = folder / "qdrant"
    built = root / "built"
    if built.exists():
        return _as_peer(qdrant.EdgeShard.load(str(root)), root, 0.0)
    shutil.rmtree(root, ignore_errors=True)
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
    peer = _as_peer(shard, root, time.perf_counter() - started)
    built.touch()
    return peer


def _as_peer(shard: Any, root: Path, build_s: float) -> Peer:
    import qdrant_edge as qdrant

    size = sum(os.path.getsize(Path(at) / name) for at, _, names in os.walk(root) for name in names)

    def request(query: list[float], k: int, budget: int) -> Any:
        return qdrant.QueryRequest(
            query=qdrant.Query.Nearest(query),
            limit=k,
            params=qdrant.SearchParams(hnsw_ef=budget),
            with_payload=False,
            with_vector=False,
        )

    def search(query: np.ndarray, k: int, budget: int) -> list[int]:
        return [hit.id for hit in shard.query(request(query[0].tolist(), k, budget))]

    def search_batch(queries: np.ndarray, k: int, budget: int) -> list[list[int]]:
        asked = qdrant.QueryBatchRequest([request(query, k, budget) for query in queries.tolist()])
        return [[hit.id for hit in hits] for hits in shard.query_batch(asked)]

    name, budgets = "qdrant-edge, m 16", (100, 125, 156, 195, 244, 305, 381, 476)
    return Peer(name, build_s, size / shard.info().points_count, budgets, search, search_batch)


def build_qdrant_local(vectors: np.ndarray, folder: Path) -> Peer:
    """Loads vectors into the local mode of Qdrant's client, an exact scan in NumPy, and returns it.

    Args:
        vectors: [item_count, dim] float32, unit length.
        folder: unused, since the local mode keeps the vectors in memory.
    """
    import qdrant_client
    from qdrant_client import models

    started = time.perf_counter()
    client = qdrant_client.QdrantClient(":memory:")
    params = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection("items", vectors_config=params)
    client.upload_collection("items", vectors=vectors, ids=range(len(vectors)))
    build_s = time.perf_counter() - started

    def search(query: np.ndarray, k: int, budget: int) -> list[int]:
        found = client.query_points("items", query=query[0].tolist(), limit=k, with_payload=False)
        return [int(point.id) for point in found.points]

    return Peer("qdrant-client, local mode", build_s, 0.0, (1,), search)


def build_milvus_lite(vectors: np.ndarray, folder: Path) -> Peer:
    """Builds a Milvus Lite collection with an HNSW graph, M = 16 and efConstruction = 100, and returns it.

    Args:
        vectors: [item_count, dim] float32, unit length.
        folder: folder of the database file.
    """
    import milvus_lite as milvus

    started = time.perf_counter()
    root = folder / "milvus"
    fields = [
        milvus.FieldSchema(name="id", dtype=milvus.DataType.INT64, is_primary=True),
        milvus.FieldSchema(name="vector", dtype=milvus.DataType.FLOAT_VECTOR, dim=vectors.shape[1]),
    ]
    items: Any = milvus.MilvusLite(str(root)).create_collection("items", milvus.CollectionSchema(fields=fields))
    for start in range(0, len(vectors), _UPSERTED_AT_ONCE):
        part = vectors[start : start + _UPSERTED_AT_ONCE].tolist()
        items.insert([{"id": start + at, "vector": vector} for at, vector in enumerate(part)])
    params = {"M": 16, "efConstruction": 100}
    items.create_index("vector", {"index_type": "HNSW", "metric_type": "IP", "params": params})
    items.load()
    build_s = time.perf_counter() - started
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())

    def search(query: np.ndarray, k: int, budget: int) -> list[int]:
        found = items.search([query[0].tolist()], top_k=k, metric_type="IP", search_params={"ef": budget})
        return [int(hit["id"]) for hit in found[0]]

    return Peer("milvus-lite, M 16", build_s, size / len(vectors), (100, 125, 156, 195, 244, 305, 381, 476), search)
