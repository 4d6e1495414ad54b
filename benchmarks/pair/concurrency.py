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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.pair.load import family
from benchmarks.pair.world import K, World
from benchmarks.timing import print_table, spread
from retrieval.store.folder_store import FolderStore
from testbed.movielens import train
from testbed.services import Pair
from two_tower_client import AsyncRetriever, Retriever

_ON, _OFF = "coalesce=True", "coalesce=False"


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
    parser.add_argument("--store", type=Path, help="store whose live bundle has query tower and items (default: train)")
    parser.add_argument("--items", type=int, default=100_000, help="number of items (default: 100,000)")
    parser.add_argument("--kinds", nargs="*", default=["faiss_ivf", "annoy"], help="kinds of index")
    parser.add_argument("--trees", type=int, default=50, help="trees of an Annoy index (default: 50)")
    parser.add_argument("--recall", type=float, default=0.95, help="recall@100 of the indexes (default: 0.95)")
    parser.add_argument("--k", type=int, default=K, help="items of an answer (default: 100)")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 64], help="callers (default: 1 8 64)")
    parser.add_argument("--ways", nargs="*", default=["threads", "asyncio"], help="ways to call (default: both)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (default: 7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round in seconds (default: 3)")
    parser.add_argument("--folder", type=Path, help="folder that keeps indexes for the next run (default: temporary)")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        if arguments.store is None:
            store = FolderStore(folder / "store")
            train(folder, store, 1, seed=1, force=True)
            arguments.store = store.root
        world = World(arguments.folder or folder, arguments.store, arguments.items, arguments.recall)
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
        for callers in arguments.callers:
            rounds: dict[str, list[Round]] = {_ON: [], _OFF: []}
            for number in range(-1, arguments.rounds):  # the first is a warm-up
                for name in (_ON, _OFF) if number % 2 else (_OFF, _ON):
                    run = _run_threads if way == "threads" else _run_tasks
                    seconds = arguments.seconds if number >= 0 else 0.5
                    measured = _timed(run, addresses, queries, arguments.k, callers, seconds, name == _ON, pids)
                    if number >= 0:
                        rounds[name].append(measured)
            rows += _show(f"{way}, {callers}", rounds)
            found[f"{way}, {callers}"] = {name: [vars(each) for each in of] for name, of in rounds.items()}
            print(f"{kind}, {way}, {callers} callers: done", file=sys.stderr, flush=True)
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


def _timed(
    run: Callable[[tuple[str, str], Sequence[dict[str, Any]], int, int, float, bool], list[float]],
    addresses: tuple[str, str],
    queries: Sequence[dict[str, Any]],
    k: int,
    callers: int,
    seconds: float,
    coalesce: bool,
    pids: Sequence[int],
) -> Round:
    served, cpu_began, began = _cpu_s(pids), time.process_time(), time.perf_counter()
    times_s = run(addresses, queries, k, callers, seconds, coalesce)
    elapsed, cpu, served = time.perf_counter() - began, time.process_time() - cpu_began, _cpu_s(pids) - served
    percentiles = statistics.quantiles(times_s, n=100)
    count = len(times_s)
    return Round(count / elapsed, percentiles[49] * 1e3, percentiles[98] * 1e3, cpu / count * 1e6, served / count * 1e6)


def _run_threads(
    addresses: tuple[str, str],
    queries: Sequence[dict[str, Any]],
    k: int,
    callers: int,
    seconds: float,
    coalesce: bool,
) -> list[float]:
    with ExitStack() as stack:
        retriever = stack.enter_context(Retriever(*addresses, timeout_s=60, coalesce=coalesce))
        retriever.retrieve(queries[0], k)
        end = time.perf_counter() + seconds

        def run(caller: int) -> list[float]:
            times_s: list[float] = []
            began = time.perf_counter()
            while began < end:
                retriever.retrieve(queries[(caller + len(times_s) * callers) % len(queries)], k)
                now = time.perf_counter()
                times_s.append(now - began)
                began = now
            return times_s

        with ThreadPoolExecutor(callers) as pool:
            return [each for times_s in pool.map(run, range(callers)) for each in times_s]


def _run_tasks(
    addresses: tuple[str, str],
    queries: Sequence[dict[str, Any]],
    k: int,
    callers: int,
    seconds: float,
    coalesce: bool,
) -> list[float]:
    async def run_all() -> list[float]:
        async with AsyncRetriever(*addresses, timeout_s=60, coalesce=coalesce) as retriever:
            await retriever.retrieve(queries[0], k)
            end = time.perf_counter() + seconds

            async def run(caller: int) -> list[float]:
                times_s: list[float] = []
                began = time.perf_counter()
                while began < end:
                    await retriever.retrieve(queries[(caller + len(times_s) * callers) % len(queries)], k)
                    now = time.perf_counter()
                    times_s.append(now - began)
                    began = now
                return times_s

            return [each for times_s in await asyncio.gather(*map(run, range(callers))) for each in times_s]

    return asyncio.run(run_all())


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


if __name__ == "__main__":
    sys.exit(main())
