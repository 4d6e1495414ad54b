"""Compares concurrent callers of `retrieve` that share calls with those that do not: throughput, median and p99.

```console
$ python -m benchmarks.pair.concurrency --store store --items 100000
```

Each service runs as one process. This process is the caller, with threads and with tasks of asyncio. All compete for
the same cores. Every measurement runs with `coalesce=True` and `coalesce=False` in turns, in a closed loop: each caller
asks again when it has its answer. Ratios are those of two rounds that follow each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pair.load import cpu_s, family
from benchmarks.pair.world import K, add_options, open_world
from benchmarks.timing import print_table, spread
from testbed.services import Pair
from two_tower_client import AsyncRetriever, Retriever

_ON, _OFF = "coalesce=True", "coalesce=False"
_WAYS = ["threads", "asyncio"]


@dataclass(frozen=True)
class Round:
    """Measurements of one round.

    Attributes:
        rate: Answers per second.
        median_ms: Median time of an answer, in ms.
        p99_ms: 99th percentile of the times, in ms.
        caller_us: CPU time of this process per answer, in µs.
        served_us: CPU time of both services per answer, in µs.
    """

    rate: float
    median_ms: float
    p99_ms: float
    caller_us: float
    served_us: float


def main() -> int:
    """Runs the measurements with the command line's arguments, prints their tables, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.pair.concurrency", description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    parser.add_argument("--kinds", nargs="*", default=["faiss_ivf", "annoy"], help="kinds of index")
    parser.add_argument("--k", type=int, default=K, help="items of an answer (default: 100)")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 64], help="callers (default: 1 8 64)")
    parser.add_argument("--ways", nargs="*", default=_WAYS, choices=_WAYS, help="ways to call (default: both)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (default: 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round in seconds (default: 3)")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        world = open_world(arguments, folder)
        for kind in arguments.kinds:
            store, _ = world.bundle(kind, arguments.trees)
            with Pair(store.root, folder / kind, flags={"max-in-flight": "1000"}) as pair:
                found[kind] = _measure(kind, pair, world.features, arguments)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _measure(kind: str, pair: Pair, queries: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    addresses = pair.query_towers[0].address, pair.anns[0].address
    pids = [pid for replica in pair.replicas if replica.process is not None for pid in family(replica.process.pid)]
    rows: list[list[str]] = []
    found: dict[str, Any] = {}
    for way in arguments.ways:
        for count in arguments.callers:
            callers = _Callers(addresses, queries, arguments.k, count)
            run = callers.by_threads if way == "threads" else callers.by_asyncio
            rounds: dict[str, list[Round]] = {_ON: [], _OFF: []}
            for number in range(-1, arguments.rounds):  # the first is a warm-up
                for name in (_ON, _OFF) if number % 2 else (_OFF, _ON):
                    seconds = arguments.seconds if number >= 0 else 0.5
                    measured = _timed(run, seconds, name == _ON, pids)
                    if number >= 0:
                        rounds[name].append(measured)
            rows += _show(f"{way}, {count}", rounds)
            found[f"{way}, {count}"] = {name: [vars(each) for each in of] for name, of in rounds.items()}
            print(f"{kind}, {way}, {count} callers: done", file=sys.stderr, flush=True)
    head = ["callers", "", "answers/s", "median, ms", "p99, ms", "caller, CPU µs", "services, CPU µs"]
    print_table(f"{kind}, {arguments.items:,} items, k = {arguments.k}: medians, ratios with their range", head, rows)
    return found


def _show(label: str, rounds: dict[str, list[Round]]) -> list[list[str]]:
    fields = ("rate", "median_ms", "p99_ms", "caller_us", "served_us")
    forms = (",.0f", ".2f", ".2f", ",.0f", ",.0f")
    rows: list[list[str]] = []
    for name, of in rounds.items():
        medians = [statistics.median(getattr(each, field) for each in of) for field in fields]
        rows.append([label, f"`{name}`", *(f"{value:{form}}" for value, form in zip(medians, forms, strict=True))])
    pairs = list(zip(rounds[_ON], rounds[_OFF], strict=True))
    ratios = [[getattr(on, field) / getattr(off, field) for on, off in pairs] for field in fields]
    rows.append([label, "**ratio**", *(spread(values, ".2f") for values in ratios)])
    return rows


class _Callers:
    """Callers in a closed loop.

    Args:
        addresses: Addresses of the query tower service and of the ANN service.
        queries: Features of the queries, which are asked in turn.
        k: Number of items of an answer.
        count: Number of callers.
    """

    def __init__(self, addresses: tuple[str, str], queries: Sequence[dict[str, Any]], k: int, count: int) -> None:
        self._addresses, self._queries, self._k, self._count = addresses, queries, k, count

    def by_threads(self, seconds: float, coalesce: bool) -> list[float]:
        """Returns the times of all answers in seconds; each caller is a thread."""
        with Retriever(*self._addresses, timeout_s=60, coalesce=coalesce) as retriever:
            retriever.retrieve(self._queries[0], self._k)
            end = time.perf_counter() + seconds

            def run(caller: int) -> list[float]:
                times_s: list[float] = []
                began = time.perf_counter()
                while began < end:
                    retriever.retrieve(self._query(caller, len(times_s)), self._k)
                    now = time.perf_counter()
                    times_s.append(now - began)
                    began = now
                return times_s

            with ThreadPoolExecutor(self._count) as pool:
                return [each for times_s in pool.map(run, range(self._count)) for each in times_s]

    def by_asyncio(self, seconds: float, coalesce: bool) -> list[float]:
        """Returns the times of all answers in seconds; each caller is a task."""
        return asyncio.run(self._run_tasks(seconds, coalesce))

    async def _run_tasks(self, seconds: float, coalesce: bool) -> list[float]:
        async with AsyncRetriever(*self._addresses, timeout_s=60, coalesce=coalesce) as retriever:
            await retriever.retrieve(self._queries[0], self._k)
            end = time.perf_counter() + seconds

            async def run(caller: int) -> list[float]:
                times_s: list[float] = []
                began = time.perf_counter()
                while began < end:
                    await retriever.retrieve(self._query(caller, len(times_s)), self._k)
                    now = time.perf_counter()
                    times_s.append(now - began)
                    began = now
                return times_s

            return [each for times_s in await asyncio.gather(*map(run, range(self._count))) for each in times_s]

    def _query(self, caller: int, number: int) -> dict[str, Any]:
        return self._queries[(caller + number * self._count) % len(self._queries)]


def _timed(run: Callable[[float, bool], list[float]], seconds: float, coalesce: bool, pids: Sequence[int]) -> Round:
    served, cpu_began, began = cpu_s(pids), time.process_time(), time.perf_counter()
    times_s = run(seconds, coalesce)
    elapsed, cpu, served = time.perf_counter() - began, time.process_time() - cpu_began, cpu_s(pids) - served
    percentiles = statistics.quantiles(times_s, n=100)
    count = len(times_s)
    return Round(count / elapsed, percentiles[49] * 1e3, percentiles[98] * 1e3, cpu / count * 1e6, served / count * 1e6)


if __name__ == "__main__":
    sys.exit(main())
