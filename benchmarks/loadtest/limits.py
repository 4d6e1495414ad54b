"""Measures the throughput of the servicers in this process, without gRPC: an upper bound for the services."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.servicer import AnnServicer
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loader import ModelLoader
from query_tower_service.servicer import QueryTowerServicer
from query_tower_service.text_metrics import TextMetrics
from retrieval.serving.bundles.open_bundle import Snapshot
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.store import BundleStore
from two_tower.ann.v1.ann_service_pb2 import SearchItemsRequest
from two_tower.query.v1.query_tower_service_pb2 import EmbedQueriesRequest

_LOAD_TIMEOUT_S = 60.0


class _NoDeadline:
    """Context of a call without a deadline."""

    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float:
        return math.inf


def measure(store: BundleStore, requests: Mapping[str, Sequence[Message]], seconds: float) -> dict[str, float]:
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
    embed = QueryTowerServicer(models, query_config.max_batch_size, metrics).EmbedQueries
    search = AnnServicer(catalogues, ann_config, metrics).SearchItems
    with _opened(models), _opened(catalogues):
        return {
            name: _rate(EmbedQueriesRequest.FromString, embed, messages, seconds)
            if name.startswith("embed")
            else _rate(SearchItemsRequest.FromString, search, messages, seconds)
            for name, messages in requests.items()
        }


def _rate(
    read: Callable[[bytes], Any], handle: Callable[[Any, Any], Message], messages: Sequence[Message], seconds: float
) -> float:
    raw, context = [message.SerializeToString() for message in messages], _NoDeadline()
    for each in raw:
        handle(read(each), context).SerializeToString()
    count, elapsed, began = 0, 0.0, time.perf_counter()
    while not count or elapsed < seconds:
        handle(read(raw[count % len(raw)]), context).SerializeToString()
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
