"""Latency, CPU and memory of one index, of shards in one process, and of shards on Ray, side by side."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import grpc
import numpy as np
import psutil

from benchmarks.attack.rows import Row
from benchmarks.shards.reference import to_search
from benchmarks.timing import alternate
from testbed.shards.bundles import MODEL
from two_tower.ann.v1 import ann_service_pb2 as pb

_SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
_CALLERS, _TIMEOUT_S = 4, 30.0
_MEMORY_SHARE = 0.8
"""Share of a machine's memory that bundles may take."""

Processes = Callable[[], list[psutil.Process]]


@dataclass(frozen=True)
class Contender:
    """A service over a catalogue.

    Attributes:
        address: Address of the service.
        processes: Function that returns all processes that work for it.
        ask: Function that sends a search and waits for the answer.
    """

    address: str
    processes: Processes
    ask: Callable[[pb.Search], object]


@dataclass(frozen=True)
class Costs:
    """What searches of a contender cost.

    Attributes:
        item_count: Number of items.
        name: Name of the contender.
        index_ms: Latency of a lone caller by index: first quartile, median, third quartile, in ms.
        exact_ms: The same of an exact search.
        rate: Searches per second of four callers in a closed loop, by index.
        cpu_ms: CPU time of one of these searches, of all processes, in ms.
        resident_mib: Resident memory of the largest process, in MiB; mapped files included.
    """

    item_count: int
    name: str
    index_ms: tuple[float, float, float]
    exact_ms: tuple[float, float, float]
    rate: float
    cpu_ms: float
    resident_mib: float


def measure(
    item_count: int, contenders: Mapping[str, Contender], queries: np.ndarray, rounds: int, seconds: float
) -> list[Costs]:
    """Measures contenders over one catalogue.

    Args:
        item_count: number of items.
        contenders: contenders by name. Their lone searches alternate, so that other load of the machine affects all.
        queries: [n, dimension] float32, unit length.
        rounds: number of searches by index; a fourth of it are exact searches.
        seconds: length of the closed loop, in seconds.

    Raises:
        grpc.RpcError: a call was not answered.
    """
    by_index, exact = (
        alternate(
            {
                name: lambda number, each=each, is_exact=is_exact: each.ask(
                    to_search(queries[number % len(queries)], is_exact)
                )
                for name, each in contenders.items()
            },
            max(8, rounds // 4) if is_exact else rounds,
        )
        for is_exact in (False, True)
    )
    requests = [
        pb.SearchItemsRequest(searches=[to_search(query, False)], model_version=MODEL).SerializeToString()
        for query in queries
    ]
    found: list[Costs] = []
    for name, each in contenders.items():
        _call(each.address, requests, seconds / 4)
        before = _cpu_s(each.processes())
        count, elapsed_s = _call(each.address, requests, seconds)
        cpu_s = _cpu_s(each.processes()) - before
        times = [(timing.low / 1e3, timing.median / 1e3, timing.high / 1e3) for timing in (by_index[name], exact[name])]
        cpu_ms = 1e3 * cpu_s / count
        found.append(Costs(item_count, name, times[0], times[1], count / elapsed_s, cpu_ms, _largest_mib(each)))
    return found


def _call(address: str, requests: Sequence[bytes], seconds: float) -> tuple[int, float]:
    """Calls a service from all callers, and returns the number of calls, and the time that they took in seconds.

    Raises:
        grpc.RpcError: a call was not answered.
    """
    numbers = itertools.count()
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(_CALLERS) as callers:
        stub = channel.unary_unary(_SEARCH)
        began = time.monotonic()

        def call() -> int:
            count = 0
            while not count or time.monotonic() - began < seconds:
                stub(requests[next(numbers) % len(requests)], timeout=_TIMEOUT_S)
                count += 1
            return count

        counts = [each.result() for each in [callers.submit(call) for _ in range(_CALLERS)]]
        return sum(counts), time.monotonic() - began


def to_rows(costs: Sequence[Costs]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table of all costs."""
    head = ["items", "contender", "by index, ms", "exact, ms", "searches/s of 4 callers", "CPU ms", "largest MiB"]
    rows = [
        [
            f"{c.item_count:,}",
            c.name,
            _quartiles(c.index_ms),
            _quartiles(c.exact_ms),
            f"{c.rate:,.0f}",
            f"{c.cpu_ms:.1f}",
            f"{c.resident_mib:,.0f}",
        ]
        for c in costs
    ]
    return head, rows


def pays_from(one: Sequence[Costs], ray: Sequence[Costs], shard_count: int, bytes_an_item: float) -> str:
    """Returns, in sentences, from which size on shards on Ray pay, by the laws of the measured sizes.

    One index takes a + b n for n items, by least squares. Shards on machines of their own take f more, and b n / s: so
    they are quicker from n = f / (b (1 - 1/s)) on. f is the least that Ray adds to any of the catalogues: the rest is
    that here all shards share the cores, and other work of the machine.

    Args:
        one: costs of one index over at least two catalogues.
        ray: costs of the same catalogues on Ray.
        shard_count: number of shards, s.
        bytes_an_item: size of an item on disk.
    """
    counts = [float(each.item_count) for each in one]
    sentences: list[str] = []
    for kind, medians, on_ray in (
        ("by index", [each.index_ms[1] for each in one], [each.index_ms[1] for each in ray]),
        ("exact", [each.exact_ms[1] for each in one], [each.exact_ms[1] for each in ray]),
    ):
        added_ms = min(there - here for here, there in zip(medians, on_ray, strict=True))
        item_ms = float(np.polyfit(counts, medians, 1)[0])
        crossing = crossing_of(added_ms, item_ms, shard_count)
        sentences.append(
            f"{kind}: Ray adds at least {added_ms:.1f} ms; a million items add {1e6 * item_ms:.1f} ms to one index; by "
            f"calculation, shards on machines of their own answer sooner from {crossing:,.0f} items on."
        )
    memory = psutil.virtual_memory().total
    fits = _MEMORY_SHARE * memory / (2 * bytes_an_item)
    sentences.append(
        f"memory: two bundles of {fits:,.0f} items, {bytes_an_item:,.0f} bytes each, take {_MEMORY_SHARE:.0%} of the "
        f"{memory / (1 << 30):.0f} GiB here."
    )
    return "\n".join(sentences)


def crossing_of(added_ms: float, item_ms: float, shard_count: int) -> float:
    """Returns the number of items from which shards on machines of their own answer sooner than one index.

    Args:
        added_ms: what the fan-out adds to the latency, in ms.
        item_ms: what an item adds to the latency of one index, in ms; infinity is returned unless it is positive.
        shard_count: number of shards, at least 2.
    """
    return max(0.0, added_ms) / (item_ms * (1.0 - 1.0 / shard_count)) if item_ms > 0.0 else float("inf")


def judge(costs: Sequence[Costs], ray_name: str, limit_ms: float) -> Iterator[Row]:
    """Yields the rows of the costs on Ray with the largest catalogue."""
    largest = max((each for each in costs if each.name == ray_name), key=lambda each: each.item_count)
    note = f"quartiles {largest.index_ms[0]:.1f} and {largest.index_ms[2]:.1f} ms"
    yield Row("costs", "latency on Ray by index, one caller, median", largest.index_ms[1], limit_ms, "ms", note=note)


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _largest_mib(contender: Contender) -> float:
    sizes = [0.0]
    for process in contender.processes():
        with suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().rss / (1 << 20))
    return max(sizes)


def _quartiles(times: tuple[float, float, float]) -> str:
    return f"{times[1]:.1f} ({times[0]:.1f} to {times[2]:.1f})"
