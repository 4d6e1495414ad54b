"""Measures the throughput of the methods in this process, without gRPC: an upper bound for the services."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.servicer import SearchItems
from query_tower_service.config import QueryTowerConfig
from query_tower_service.embed_queries import EmbedQueries
from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.loader import ModelLoader
from query_tower_service.text_metrics import TextMetrics
from retrieval.serving.answering.call import Call, Method
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.folder_store import FolderStore

_LOAD_TIMEOUT_S = 60.0


def measure(store: FolderStore, requests: Mapping[str, Sequence[Message]], seconds: float) -> dict[str, float]:
    """Returns the requests per second that one thread answers, by file name, parsing and serialization included.

    Args:
        store: store whose live bundle is opened.
        requests: requests by file name, as `testbed.requests.make_requests` returns them.
        seconds: length of the measurement of each file, in seconds.
    """
    metrics = Metrics()
    query_config, ann_config = QueryTowerConfig(store=store.root), AnnConfig(store=store.root)
    models = OpenBundles(
        store, ModelLoader(store, query_config, TextMetrics(metrics.registry)).open, query_config, metrics
    )
    catalogues = OpenBundles(store, CatalogueLoader(store, ann_config).open, ann_config, metrics)
    embed = EmbedQueries(models, query_config.max_batch_size, metrics, FeatureMetrics(metrics.registry))
    search = SearchItems(catalogues, ann_config, metrics)
    with _opened(models), _opened(catalogues):
        return {
            name: _rate(embed if name.startswith("embed") else search, messages, seconds)
            for name, messages in requests.items()
        }


def _rate(method: Method, messages: Sequence[Message], seconds: float) -> float:
    bodies = [message.SerializeToString() for message in messages]
    loop = asyncio.new_event_loop()
    never = loop.create_future()
    loop.close()

    def answer(body: bytes) -> None:
        call = Call(method, body, "", time.monotonic(), math.inf, never)
        for _ in method.answer([call]):
            pass
        if call.error is not None:
            raise call.error

    for body in bodies:
        answer(body)
    count, elapsed, began = 0, 0.0, time.perf_counter()
    while not count or elapsed < seconds:
        answer(bodies[count % len(bodies)])
        count += 1
        elapsed = time.perf_counter() - began
    return count / elapsed


class _opened:
    """Context in which an `OpenBundles` runs; entering it waits until the first bundle is open."""

    def __init__(self, open_bundles: OpenBundles[Any]) -> None:
        self._open_bundles = open_bundles

    def __enter__(self) -> None:
        opened = threading.Event()

        def follow(snapshot: Snapshot[Any]) -> None:
            if snapshot.open:
                opened.set()

        self._open_bundles.start(follow)
        if not opened.wait(_LOAD_TIMEOUT_S):
            problems = "; ".join(problem.message for problem in self._open_bundles.snapshot.problems)
            raise RuntimeError(f"no bundle opened within {_LOAD_TIMEOUT_S:.0f} s: {problems or 'still loading'}")

    def __exit__(self, *exception: object) -> None:
        self._open_bundles.stop()
