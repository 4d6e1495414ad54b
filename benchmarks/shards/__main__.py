"""Shards on a Ray cluster, judged at size: ``python -m benchmarks.shards``, a part of ``make scale``.

Nodes of the cluster are processes of this machine with loopback addresses of their own. Prints a table of promises, and
one of costs. Exits with 1 if a promise is missed. Needs the extra ray.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import grpc
import psutil

from benchmarks.attack.rows import Row, broken, exit_code, to_table
from benchmarks.shards import costs, equality, kills, swaps
from benchmarks.shards.costs import Contender, Costs
from benchmarks.shards.world import Catalogue, make, serving
from benchmarks.timing import print_table
from testbed.services import Replica
from testbed.shards.cluster import Cluster, ray_cluster
from testbed.synthetic_vectors import Data, make_data
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc

_Service = tuple[Replica, ann_grpc.AnnServiceStub]
ONE, LOCAL, RAY = "one index", "4 shards, one process", "4 shards on Ray"
_SHARDS, _NODES = 4, 3
_LATENCY_LIMIT_MS = 250.0
_QUERIES, _SHORT_QUERIES = 200, 60
_SHORT_BUDGET = 500
"""Search budget of the short form: with that of its small bundles, the service scans instead of using the index."""


def main() -> int:
    """Runs the parts with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.shards", description=__doc__)
    parser.add_argument("--short", action="store_true", help="20,000 items, 2 kills and swaps, for CI")
    parser.add_argument("--items", type=int, help="items of the catalogue (default: 1,000,000)")
    parser.add_argument("--kills", type=int, help="nodes to kill (default: 20)")
    parser.add_argument("--swaps", type=int, help="swaps (default: 10)")
    parser.add_argument("--trees", type=int, help="trees of each index (default: 25)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the catalogues in this folder, or use those")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    arguments = parser.parse_args()
    short = arguments.short
    items = arguments.items or (20_000 if short else 1_000_000)
    kill_count = arguments.kills or (2 if short else 20)
    swap_count = arguments.swaps or (2 if short else 10)
    trees = arguments.trees or (5 if short else 25)
    sizes = [] if short else [size for size in (50_000, 200_000) if size < items]
    began = time.monotonic()
    rows: list[Row] = []
    measured: list[Costs] = []
    with tempfile.TemporaryDirectory(prefix="two-tower-shards-") as temporary:
        world = World(arguments.keep or Path(temporary), Path(temporary), items, trees, short)
        with ray_cluster(_NODES, cpus=-(-_SHARDS // (_NODES - 1))) as cluster:
            rows += _guard("service", lambda: world.refuse(cluster, measured, swap_count, kill_count - kill_count // 2))
            rows += _guard("service", lambda: world.allow(cluster, kill_count // 2))
            for size in sizes:
                rows += _run("costs", lambda size=size: world.measure_size(cluster, size, measured))
    measured.sort(key=lambda each: each.item_count)
    if measured:
        rows += costs.judge(measured, RAY, _LATENCY_LIMIT_MS)
        print_table(f"{_SHARDS} shards, {_NODES} nodes, k = 100, medians and quartiles", *costs.to_rows(measured))
    if len({each.item_count for each in measured}) > 1:
        one, ray = ([each for each in measured if each.name == name] for name in (ONE, RAY))
        print(f"\n{costs.pays_from(one, ray, _SHARDS, world.sharded.size_bytes() / items)}")
    took = f"{time.monotonic() - began:.0f} s on {len(os.sched_getaffinity(0))} cores, load averages "
    took += ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"\n{items:,} items, {took}\n\n{to_table(rows, 'part')}")
    if arguments.json:
        found = {"rows": [row.to_json() for row in rows], "costs": [asdict(each) for each in measured]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return exit_code(rows)


def _run(name: str, part: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Yields the rows of a part as they become known, and tells them."""
    began = time.monotonic()
    for row in _guard(name, part):
        told = f"{row.attack}: {row.promise}: {row.figure:.4g} {row.unit}; {row.note}"
        print(f"{'ok  ' if row.is_kept else 'MISS'} {told}", file=sys.stderr, flush=True)
        yield row
    _tell(f"{name}: {time.monotonic() - began:.0f} s")


def _guard(name: str, part: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Yields the rows of a part; one that cannot be finished ends with a missed promise, and others go on."""
    try:
        yield from part()
    except Exception as error:
        traceback.print_exc()
        yield broken(name, error)


class World:
    """Catalogues, and what is done with them.

    Attributes:
        sharded: Catalogue in shards.
    """

    def __init__(self, folder: Path, logs: Path, items: int, trees: int, short: bool) -> None:
        """Makes the catalogues in a folder: one index, the same in shards, and another one in shards to swap with."""
        self._folder, self._logs, self._trees, self._short = folder, logs, trees, short
        self._numbers = itertools.count()
        self._addresses = (f"127.0.{number >> 8}.{number & 255}" for number in itertools.count(3 + _NODES))
        data = make_data(items, query_count=_SHORT_QUERIES if short else _QUERIES)
        self._one, self.sharded = self._make(data, str(items))
        # The same vectors in another order: an item of the one bundle has another score in the other.
        other = Data(data.name, data.vectors[::-1].copy(), data.queries)
        _tell("another bundle in shards")
        self._other = make(self.sharded.store.root, other, _SHARDS, trees, number=1)
        self.sharded.store.promote(self.sharded.version)
        _tell("the right answers")
        budget = _SHORT_BUDGET if short else None
        self._references = {each.version: each.reference(budget) for each in (self.sharded, self._other)}

    def refuse(self, cluster: Cluster, measured: list[Costs], swap_count: int, kill_count: int) -> Iterator[Row]:
        """Yields the rows of a service that refuses part answers: equality, swaps, and nodes that are killed.

        Adds the costs of the largest catalogue to `measured`.
        """
        with ExitStack() as stack:
            ray = self._serve(stack, self.sharded, _on_ray(cluster))
            yield from _run("equality", lambda: self._compare(cluster, ray, measured))
            yield from _run("swaps", lambda: self._swap(ray[0].address, swap_count))
            yield from _run("kills, refuse", lambda: self._kill("kills, refuse", ray[0].address, cluster, kill_count))

    def allow(self, cluster: Cluster, kill_count: int) -> Iterator[Row]:
        """Yields the rows of nodes that are killed while part answers are allowed."""
        with serving(self.sharded, self._log(), {**_on_ray(cluster), "partial-answers": "allow"}) as replica:
            address = replica.address
            yield from _run("kills, partial", lambda: self._kill("kills, partial", address, cluster, kill_count, True))

    def _compare(self, cluster: Cluster, ray: _Service, measured: list[Costs]) -> Iterator[Row]:
        with ExitStack() as others:
            one, local = self._serve(others, self._one), self._serve(others, self.sharded)
            reference = self._references[self.sharded.version]
            budget = self._one.manifest.index.search_budget
            yield from equality.judge(reference, equality.asking(one[1]), budget, equality.asking(ray[1]))
            measured += self._measure(cluster, self.sharded, {ONE: one, LOCAL: local, RAY: ray})

    def _swap(self, address: str, count: int) -> Iterator[Row]:
        versions = [self._other.version, self.sharded.version]
        found = swaps.swap(address, self.sharded.store, self._references, versions, count)
        yield from swaps.judge(found, count)

    def _kill(
        self, name: str, address: str, cluster: Cluster, count: int, allows_partial: bool = False
    ) -> Iterator[Row]:
        found = kills.kill(address, self._references, cluster, count, self._addresses)
        yield from kills.judge(name, found, count, allows_partial)

    def measure_size(self, cluster: Cluster, size: int, measured: list[Costs]) -> Iterator[Row]:
        """Adds the costs of another catalogue to `measured`; yields nothing."""
        one, sharded = self._make(make_data(size), str(size))
        with ExitStack() as stack:
            services = {
                ONE: self._serve(stack, one),
                LOCAL: self._serve(stack, sharded),
                RAY: self._serve(stack, sharded, _on_ray(cluster)),
            }
            measured += self._measure(cluster, sharded, services)
        yield from ()

    def _make(self, data: Data, name: str) -> tuple[Catalogue, Catalogue]:
        """Returns a catalogue in one index, and in shards with at least its recall."""
        _tell(f"{data.name} items as one index")
        one = make(self._folder / f"{name}-one", data, 1, self._trees)
        _tell(f"the same in {_SHARDS} shards")
        recall = one.manifest.index.recall_at_100
        return one, make(self._folder / f"{name}-shards", data, _SHARDS, self._trees, recall)

    def _serve(self, stack: ExitStack, catalogue: Catalogue, flags: Mapping[str, str] | None = None) -> _Service:
        """Returns a service and a stub of it, which end with the stack."""
        replica = stack.enter_context(serving(catalogue, self._log(), flags))
        return replica, ann_grpc.AnnServiceStub(stack.enter_context(grpc.insecure_channel(replica.address)))

    def _measure(self, cluster: Cluster, catalogue: Catalogue, services: dict[str, _Service]) -> list[Costs]:
        contenders = {
            name: Contender(
                replica.address,
                lambda replica=replica, name=name: [
                    *_processes(replica),
                    *(cluster.processes() if name == RAY else ()),
                ],
                equality.asking(stub),
            )
            for name, (replica, stub) in services.items()
        }
        rounds, seconds = (40, 1.0) if self._short else (200, 8.0)
        return costs.measure(catalogue.manifest.item_count, contenders, catalogue.data.queries, rounds, seconds)

    def _log(self) -> Path:
        return self._logs / f"service-{next(self._numbers)}"


def _on_ray(cluster: Cluster) -> dict[str, str]:
    # Ray tells at once what was killed. Other processes of a busy machine may wait for their turn for seconds.
    return {"engine": "ray", "ray-address": cluster.address, "threads": "4", "shard-timeout-s": "10"}


def _processes(replica: Replica) -> list[psutil.Process]:
    assert replica.process is not None
    process = psutil.Process(replica.process.pid)
    return [process, *process.children(recursive=True)]


def _tell(what: str) -> None:
    print(f"shards: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
