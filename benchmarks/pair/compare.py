"""Compares both services with Qdrant's engine in process: throughput, CPU time and recall.

```console
$ python -m benchmarks.pair.compare --store store --items 100000
```

Each service runs as one process. This process sends the load, and competes with them for the cores. Bundles have the
query tower of the live bundle of `--store`, and synthetic items around its items
(`testbed.synthetic_vectors.spread_items`), so that query embeddings are near to some items. Search budgets are chosen
on other queries than those of the measurement; recall is measured on the answers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from benchmarks.pair.load import Contender, family
from benchmarks.pair.world import K, World, add_options, open_world
from benchmarks.timing import print_table
from retrieval.bundle.manifest import Manifest
from retrieval.index.registry import STRUCTURES
from retrieval.store.folder_store import FolderStore
from testbed.services import Replica
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower_client import Retrieval, Retriever, Search, ann

SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
_BATCH = 100
_CALLERS = 4
_CONNECTIONS = 8


def main() -> int:
    """Runs the measurements with the command line's arguments, prints their tables, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.pair.compare", description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument(
        "--kinds", nargs="*", default=STRUCTURES, choices=STRUCTURES, help="kinds of index (default: all)"
    )
    parser.add_argument("--workers", type=int, default=1, help="workers of the ANN service (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round in seconds (default: 3)")
    parser.add_argument(
        "--no-peer", action="store_true", help="leave out Qdrant, which takes minutes to index a million items"
    )
    parser.add_argument("--short", action="store_true", help="under 5 minutes: 20,000 items, 3 rounds of a second")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.items, arguments.rounds, arguments.seconds = 20_000, 3, 1.0
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        world = open_world(arguments, folder)
        found = _run(world, arguments, folder)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _run(world: World, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        pairs: dict[str, _Served] = {}
        for kind in arguments.kinds:
            store, manifest = world.bundle(kind, arguments.trees)
            pairs[kind] = _Served(store, manifest, folder / kind, arguments.workers, stack)
        print(f"\n{world.item_count:,} items, load average {os.getloadavg()[0]:.1f}", flush=True)
        throughput = _throughput(world, pairs, arguments)
    return {
        "items": world.item_count,
        "budgets": {kind: pair.manifest.index.search_budget for kind, pair in pairs.items()},
        "load average": os.getloadavg(),
        "throughput": throughput,
    }


class _Served:
    """Both services with one bundle, and clients of them.

    Attributes:
        manifest: Manifest of the bundle.
        retriever: Client of both services, with several connections.
        ann_pids: Process ids of the ANN service, workers included.
        pids: Process ids of both services, workers included.
    """

    def __init__(self, store: FolderStore, manifest: Manifest, folder: Path, workers: int, stack: ExitStack) -> None:
        self.manifest = manifest
        tower, catalogue = (
            self._start(service, store, folder / service, count, stack)
            for service, count in (("query_tower_service", 1), ("ann_service", workers))
        )
        assert tower.process is not None
        assert catalogue.process is not None
        self.ann_pids = family(catalogue.process.pid)
        self.pids = [*family(tower.process.pid), *self.ann_pids]
        self.retriever = stack.enter_context(
            Retriever(tower.address, catalogue.address, timeout_s=60, connections=_CONNECTIONS)
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 1 << 26)]
        channels = [grpc.insecure_channel(catalogue.address, options) for _ in range(_CONNECTIONS)]
        for channel in channels:
            stack.enter_context(channel)
        self._methods = itertools.cycle([channel.unary_unary(SEARCH) for channel in channels])

    def search(self, request: bytes) -> bytes:
        """Sends a serialized SearchItems request over the next connection, and returns the serialized response."""
        return next(self._methods)(request, timeout=60)

    @staticmethod
    def _start(service: str, store: FolderStore, folder: Path, workers: int, stack: ExitStack) -> Replica:
        flags = {"max-in-flight": "1000", "drain-delay-s": "0", "workers": str(workers)}
        replica = Replica(service, store.root, folder, flags)
        replica.start()
        stack.callback(replica.stop)
        replica.wait_until_serving(timeout_s=300)
        return replica


def _throughput(world: World, pairs: dict[str, _Served], arguments: argparse.Namespace) -> dict[str, Any]:
    contenders: list[Contender] = []
    batches = _parts(world.features)
    for kind, pair in pairs.items():
        contenders += _searches(world, kind, pair)

        def retrieve(number: int, pair: _Served = pair) -> list[Retrieval]:
            return pair.retriever.retrieve_batch(batches[number % len(batches)], K)

        recall = world.recall([_rows(one.item_ids) for number in range(len(batches)) for one in retrieve(number)])
        contenders.append(Contender(f"{kind}, pair, 100 queries", retrieve, _BATCH, _CALLERS, recall, pair.pids))
    if not arguments.no_peer:
        contenders += _peers(world)
    for _ in range(arguments.rounds):
        for contender in contenders:
            contender.measure(arguments.seconds)
    head = ["what answers", "recall@100", "queries/s (range)", "services, CPU µs a query", "load generator, µs"]
    print_table(f"{world.item_count:,} items, k = {K}, closed loop", head, [each.show() for each in contenders])
    _compare(contenders)
    print(flush=True)
    return {
        each.name: {
            "recall": each.recall,
            "queries_per_s": [one.queries_per_s for one in each.rounds],
            "served_us": [one.served_us for one in each.rounds],
            "load_us": [one.load_us for one in each.rounds],
        }
        for each in contenders
    }


def _compare(contenders: Sequence[Contender]) -> None:
    """Prints the throughput of the services relative to the best throughput of Qdrant; nothing if Qdrant was not run.

    Contenders without process ids run Qdrant's engine in this process. The columns are queries per second of elapsed
    time, queries per second of CPU time of services and load generator together, and queries per second of CPU time of
    the services alone. Other work on the machine changes CPU time less than elapsed time.
    """
    peers = [each for each in contenders if not each.pids]
    if not peers:
        return
    rate, cpu_us = max(each.rate for each in peers), min(each.cpu_us for each in peers)
    rows = [
        [each.name, f"{each.rate / rate:.2f}", f"{cpu_us / each.cpu_us:.2f}", f"{cpu_us / each.served_us:.2f}"]
        for each in contenders
        if each.pids
    ]
    head = ["what answers", "queries a second", "a second of CPU", "the same, load generator set aside"]
    print_table("queries of each / of Qdrant's best", head, rows)


def _searches(world: World, kind: str, pair: _Served) -> list[Contender]:
    """Returns two contenders for the ANN service alone: one search per call, and 100 searches per call.

    Requests and responses stay bytes, so that sending load takes little CPU time.
    """
    found: list[Contender] = []
    searches = [Search(embedding=each, k=K) for each in world.embeddings.tolist()]
    for size in (1, _BATCH):
        parts = [searches[start : start + size] for start in range(0, len(searches), size)]
        requests = [ann.to_request(part, pair.manifest.model_version, "").SerializeToString() for part in parts]

        def call(number: int, requests: list[bytes] = requests) -> bytes:
            return pair.search(requests[number % len(requests)])

        answers = (pb.SearchItemsResponse.FromString(call(number)) for number in range(len(requests)))
        recall = world.recall([_rows(result.item_ids) for answer in answers for result in answer.results])
        name = f"{kind}, SearchItems, {size} search{'es' if size > 1 else ''}"
        found.append(Contender(name, call, size, 2 * _CALLERS if size == 1 else _CALLERS, recall, pair.ann_pids))
    return found


def _peers(world: World) -> list[Contender]:
    peer, budget = world.peer()
    search_batch = peer.search_batch
    assert search_batch is not None
    queries = [world.embeddings[n : n + 1] for n in range(len(world.embeddings))]
    parts = _parts(world.embeddings)

    def one(number: int) -> list[int]:
        return peer.search(queries[number % len(queries)], K, budget)

    def batch(number: int) -> list[list[int]]:
        return search_batch(parts[number % len(parts)], K, budget)

    recall = world.recall([one(number) for number in range(len(queries))])
    return [
        Contender(
            f"qdrant-edge in process, {size} a call, {threads} thread{'s' * (threads > 1)}", call, size, threads, recall
        )
        for call, size in ((one, 1), (batch, _BATCH))
        for threads in (1, 2)
    ]


def _parts(values: Sequence[Any]) -> list[Any]:
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]


def _rows(item_ids: Sequence[str]) -> list[int]:
    return [int(item_id.removeprefix("item-")) for item_id in item_ids]


if __name__ == "__main__":
    sys.exit(main())
