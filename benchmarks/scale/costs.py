"""Measures what a catalogue costs: bytes, time to build and to open, and the CPU of a search at a served replica."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.attack.callers import Callers, run
from benchmarks.attack.calls import Calls, Load
from benchmarks.scale.batches import cost_of_batches
from benchmarks.services.load import one_core, other_cores
from retrieval.bundle.layout import INDEX, ITEMS, VECTORS
from retrieval.serving.answering.waiting import SHARED_BYTES
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import K, Made, make
from testbed.services import Replica
from two_tower_client import Search, ann

SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
TOGETHER = (1, 2, 4, 8, 16, 32)
"""Numbers of callers with which the cost of a search is measured."""

_BATCHES = (1, 2, 3, 4, 5, 6, 8, 11)
"""Numbers of calls in a batch whose cost is measured. Three searches may cost more than four, which share a scan."""

_TREES, _RECALL = 50, 0.95
_TIMEOUT_S = 10.0
_SPARSE = 0.05
"""Share of the throughput of one caller at which nearly every call finds the replica idle."""
_ROUNDS = 5
_STREAMS = 4
"""Even streams of calls that make up an open loop; they are not in step, so calls meet."""


@dataclass(frozen=True)
class Served:
    """A measured load.

    Attributes:
        rate: Calls begun per second.
        arrivals_s: [n] float64, time at which each call was begun, ascending.
        latencies_s: [n] float64, latency of each call.
    """

    rate: float
    arrivals_s: np.ndarray
    latencies_s: np.ndarray


@dataclass(frozen=True)
class Round:
    """Loads of an open loop, and what calls cost in the same minute: the speed of a shared machine changes.

    Attributes:
        alone_s: Median latency of a lone caller that calls again at once, in seconds.
        sparse_s: Median latency of calls that find the replica idle for a while, in seconds.
        cpu_alone_s: CPU time of a call of a lone caller, in seconds.
        cpu_at_once_s: CPU time of a call of more callers than fit into a batch, in seconds.
        batch_s: CPU time of calls that are answered together in seconds, without gRPC, by their number.
        served: The loads, one for each share.
    """

    alone_s: float
    sparse_s: float
    cpu_alone_s: float
    cpu_at_once_s: float
    batch_s: dict[int, float]
    served: list[Served]


@dataclass
class Costs:
    """What a catalogue of some size costs.

    Attributes:
        item_count: Number of items.
        bytes_an_item: Bytes on disk of an item, by kind of file.
        build_s: Time to make the bundle on all cores, most of it that of the index, in seconds.
        open_s: Time of a replica from the promotion to the answer, in seconds: hashing, opening, checks.
        resident_mib: Memory of the replica after the searches, in MiB; mapped files included.
        alone_s: Median latency of a lone caller that calls again at once, in seconds.
        cpu_s: CPU time of a search in seconds, by the number of callers at once.
        rate: Searches per second, by the number of callers at once.
        rounds: Loads of an open loop, and the costs beside them.
    """

    item_count: int
    bytes_an_item: dict[str, float]
    build_s: float
    open_s: float = 0.0
    resident_mib: float = 0.0
    alone_s: float = 0.0
    cpu_s: dict[int, float] = field(default_factory=dict[int, float])
    rate: dict[int, float] = field(default_factory=dict[int, float])
    rounds: list[Round] = field(default_factory=list[Round])


def measure(
    store: FolderStore, base: str, item_count: int, folder: Path, seconds: float, shares: Sequence[float]
) -> Costs:
    """Makes a catalogue, serves it by one process on one core, and measures it; the callers run on the other cores.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower is copied.
        item_count: number of items, at least 1,000.
        folder: folder for logs.
        seconds: length of each load in seconds.
        shares: shares of the throughput of 16 callers that are offered in open loops.
    """
    began = time.monotonic()
    made = make(store, base, item_count, _TREES, _RECALL)
    costs = Costs(item_count, _bytes_an_item(store, made), time.monotonic() - began)
    # One thread for long calls, because there is one core.
    replica = Replica("ann_service", store.root, folder / str(item_count), {"drain-delay-s": "0", "threads": "1"})
    with one_core():
        began = time.monotonic()
        replica.start()
    try:
        replica.wait_until_serving()
        costs.open_s = time.monotonic() - began
        assert replica.process is not None
        process = psutil.Process(replica.process.pid)
        requests = [
            ann.to_request(
                [Search(embedding=vector.tolist(), k=K)], made.manifest.model_version, ""
            ).SerializeToString()
            for vector in made.queries
        ]
        with other_cores():
            for callers in TOGETHER:
                costs.cpu_s[callers], costs.rate[callers], latency_s = _measure_closed(
                    replica.address, requests, callers, seconds, process
                )
                if callers == 1:
                    costs.alone_s = latency_s
        costs.resident_mib = process.memory_info().rss / (1 << 20)
        for _ in range(_ROUNDS if shares else 0):
            costs.rounds.append(_measure_round(costs, store, replica.address, requests, process, seconds, shares))
    finally:
        replica.stop()
    return costs


def _measure_round(
    costs: Costs,
    store: FolderStore,
    address: str,
    requests: list[bytes],
    process: psutil.Process,
    seconds: float,
    shares: Sequence[float],
) -> Round:
    largest = SHARED_BYTES // max(map(len, requests))
    sizes = {size for size in _BATCHES if size < largest} | {largest}
    batch_s = cost_of_batches(store, requests, sorted(sizes), seconds)
    with other_cores():
        cpu_alone_s, _, alone_s = _measure_closed(address, requests, 1, seconds / 2, process)
        cpu_at_once_s, _, _ = _measure_closed(address, requests, TOGETHER[-1], seconds / 2, process)
        sparse = _measure_open(address, requests, _SPARSE * costs.rate[1], seconds)
        served = [_measure_open(address, requests, share * costs.rate[16], seconds) for share in shares]
    return Round(alone_s, float(np.median(sparse.latencies_s)), cpu_alone_s, cpu_at_once_s, batch_s, served)


def _bytes_an_item(store: FolderStore, made: Made) -> dict[str, float]:
    files = {"vectors": VECTORS, "index": INDEX, "ids and attributes": ITEMS}
    folder = store.path(made.manifest.bundle_version)
    return {kind: (folder / name).stat().st_size / made.manifest.item_count for kind, name in files.items()}


def _measure_closed(
    address: str, requests: list[bytes], callers: int, seconds: float, process: psutil.Process
) -> tuple[float, float, float]:
    """Returns the CPU time of a search in seconds, searches per second, and the median latency in seconds."""
    run(Load(address, SEARCH, requests, 0.5, _TIMEOUT_S, callers=callers))
    before = process.cpu_times()
    calls = _answered(run(Load(address, SEARCH, requests, seconds, _TIMEOUT_S, callers=callers))[0])
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return cpu_s / len(calls.codes), len(calls.codes) / calls.seconds, float(np.median(calls.latencies_s))


def _measure_open(address: str, requests: list[bytes], rate: float, seconds: float) -> Served:
    generator = np.random.default_rng(3)
    weights = generator.uniform(0.7, 1.3, _STREAMS)
    loads = [
        Load(
            address,
            SEARCH,
            requests[number:],
            seconds,
            _TIMEOUT_S,
            rate=rate * weight / weights.sum(),
            delay_s=0.01 * number,
        )
        for number, weight in enumerate(weights)
    ]
    with Callers([loads]) as callers:
        calls = _answered(Calls.joined(callers.results()[0]))
    order = np.argsort(calls.began_s)
    return Served(calls.offered, (calls.began_s - calls.began_s.min())[order], calls.latencies_s[order])


def _answered(calls: Calls) -> Calls:
    """Returns calls that were all answered.

    Raises:
        RuntimeError: a call was not answered, so its time is no cost of a search.
    """
    if failed := int(np.count_nonzero(calls.codes)):
        raise RuntimeError(f"{failed} of {len(calls.codes)} calls were not answered, as this one: {calls.answer!r}")
    return calls
