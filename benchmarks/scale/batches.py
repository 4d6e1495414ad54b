"""Measures what it costs to answer several calls together, without gRPC."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.servicer import SearchItems
from benchmarks.services.load import one_core
from retrieval.serving.answering.call import Call
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.folder_store import FolderStore

_OPEN_S = 300.0


def cost_of_batches(
    store: FolderStore, requests: Sequence[bytes], sizes: Sequence[int], seconds: float
) -> dict[int, float]:
    """Returns the CPU time of a batch of `SearchItems` calls in seconds, by its number of calls: medians.

    The sizes take turns. All work is on one thread and one core.

    Args:
        store: store whose live bundle is searched.
        requests: serialized requests, which are answered in turn.
        sizes: numbers of calls in a batch.
        seconds: time to measure for, in seconds.

    Raises:
        RuntimeError: the bundle was not opened in time, or a call was not answered.
    """
    config = AnnConfig(store=store.root)
    metrics = Metrics()
    open_bundles = OpenBundles(store, CatalogueLoader(store, config).open, config, metrics)
    is_open = threading.Event()
    open_bundles.start(lambda snapshot: is_open.set() if snapshot.open else None)
    try:
        if not is_open.wait(_OPEN_S):
            raise RuntimeError(f"the live bundle of {store.root} was not opened within {_OPEN_S:.0f} s")
        method = SearchItems(open_bundles, config, metrics)
        times: dict[int, list[float]] = {size: [] for size in sizes}
        with one_core(), threadpool_limits(1, "blas"):
            _answer(method, requests[: max(sizes)])
            end = time.monotonic() + seconds
            first = 0
            while time.monotonic() < end:
                for size in sizes:
                    batch = [requests[(first + number) % len(requests)] for number in range(size)]
                    times[size].append(_answer(method, batch))
                    first += size
    finally:
        open_bundles.stop()
    return {size: statistics.median(own) for size, own in times.items()}


def _answer(method: SearchItems, requests: Sequence[bytes]) -> float:
    """Answers requests together, and returns the CPU time of this thread in seconds."""
    loop = asyncio.new_event_loop()
    calls = [Call(method, body, "", time.monotonic(), math.inf, loop.create_future()) for body in requests]
    began = time.thread_time()
    for _ in method.answer(calls):
        pass
    took = time.thread_time() - began
    loop.close()
    if failed := [call.error for call in calls if call.error is not None]:
        raise RuntimeError("a call was not answered") from failed[0]
    return took
