"""CPU time that a retrieve costs its caller, by who reads the sockets: ``python -m bench.client_cost --store STORE``.

By default threads of gRPC read them, and hand each answer to the thread that waits for it. gRPC reads
``GRPC_EXPERIMENTS`` when it is imported, so each client is a process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.timing import print_table, spread
from bundle.canaries import Canaries
from bundle.layout import CANARIES
from bundle.store import BundleStore
from rehearsal.pair import Replica
from two_tower_client import AsyncRetriever, Retriever

_READERS: Mapping[str, str | None] = {"threads of gRPC": None, "the caller": "-event_engine_client"}
_TASKS = (1, 8, 64)
_WARM_UP = 100
_K = 100


def main() -> int:
    """Measures and prints the table; with `--ask`, prints what one client measured, as JSON."""
    parser = argparse.ArgumentParser(prog="bench.client_cost", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--store", type=Path, required=True, help="whose live bundle is served")
    parser.add_argument("--rounds", type=int, default=5, help="of each client (default: 5)")
    parser.add_argument("--calls", type=int, default=1000, help="by each client and number of tasks (default: 1,000)")
    parser.add_argument("--ask", nargs=2, metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.calls) < 1:
        parser.error("--rounds and --calls take a number of at least 1")
    store = BundleStore(arguments.store.resolve())
    queries = _queries(store)  # of the live bundle, which there has to be
    if arguments.ask:
        print(json.dumps(asyncio.run(_ask(queries, arguments.ask, arguments.calls))))
        return 0
    services: list[Replica] = []
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        try:
            for name in ("query_tower_service", "ann_service"):
                services.append(Replica(name, store.root, Path(temporary) / name, {"drain-delay-s": "0"}))
                services[-1].start()
                services[-1].wait_until_serving()
            _print(_take_turns([service.address for service in services], arguments))
        finally:
            for service in services:
                service.stop()
    return 0


def _take_turns(addresses: Sequence[str], arguments: Any) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {reader: [] for reader in _READERS}
    own = ["--store", str(arguments.store), "--calls", str(arguments.calls), "--ask", *addresses]
    for _ in range(arguments.rounds):
        for reader, experiments in _READERS.items():
            environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
            if experiments is not None:
                environment["GRPC_EXPERIMENTS"] = experiments
            command = [sys.executable, "-m", "bench.client_cost", *own]
            found[reader].append(json.loads(subprocess.check_output(command, env=environment)))
    return found


async def _ask(queries: Sequence[Mapping[str, Any]], addresses: Sequence[str], calls: int) -> dict[str, float]:
    """Returns the CPU time of a retrieve, in µs, by client."""
    found: dict[str, float] = {}
    with Retriever(*addresses, timeout_s=60) as retriever:
        for number in range(-_WARM_UP, calls):
            if number == 0:
                began = time.process_time()
            retriever.retrieve(queries[number % len(queries)], _K)
        found["Retriever"] = (time.process_time() - began) / calls * 1e6
    async with AsyncRetriever(*addresses, timeout_s=60) as retriever:
        for tasks in _TASKS:

            async def run(numbers: Any, retriever: AsyncRetriever = retriever) -> None:
                for number in numbers:
                    await retriever.retrieve(queries[number % len(queries)], _K)

            for count in (_WARM_UP, calls):
                began, numbers = time.process_time(), iter(range(count))
                await asyncio.gather(*(run(numbers) for _ in range(tasks)))
            found[f"AsyncRetriever, {tasks} at a time"] = (time.process_time() - began) / calls * 1e6
    return found


def _queries(store: BundleStore) -> list[dict[str, Any]]:
    columns = Canaries.read(store.path(store.live_version()) / CANARIES).columns
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _print(found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    threads, caller = (found[reader] for reader in _READERS)
    rows: list[list[str]] = []
    for client in threads[0]:
        of_threads, of_caller = ([each[client] for each in rounds] for rounds in (threads, caller))
        ratios = [own / other for own, other in zip(of_caller, of_threads, strict=True)]
        medians = [f"{statistics.median(of):,.0f}" for of in (of_threads, of_caller)]
        rows.append([client, *medians, spread(ratios, ".2f")])
    head = ["client", *(f"{reader}, µs" for reader in _READERS), "ratio within a round"]
    print_table(f"CPU time of a retrieve at its caller, k = {_K}, by who reads the sockets", head, rows)


if __name__ == "__main__":
    sys.exit(main())
