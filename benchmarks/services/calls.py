"""`make bench`: latency and CPU time of calls to each service, compared with the same work in process and an echo.

```console
$ python -m benchmarks.services.calls --items 100000
```

CPU time is the user and system time of the server's process, without that of the load generator, because on few cores
the two compete. For CPU time, each server and each in-process measurement is pinned to one core, as a worker of
``--workers auto`` is. Latency is measured without pinning. All contenders run alternately; the median of the rounds and
their range are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from annoy import AnnoyIndex

from benchmarks.services.load import CALLERS, Series, Target, measure_here, one_core
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, VECTORS
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import K, Made, make
from testbed.movielens import copy_or_train
from testbed.services import Replica
from two_tower_client import AnnClient, QueryTowerClient, Retriever, Search, ann, query_tower
from two_tower_client.search import with_embeddings

EMBED = "/two_tower.query.v1.QueryTowerService/EmbedQueries"
SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
_EXCLUDED = 10_000
_FEW = 20
_POSITIVES = 60
_MANY_CALLERS = 16


def main() -> int:
    """Runs the measurements with the command line's arguments, prints their tables, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.calls", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="store whose live bundle has the query tower (default: train)")
    parser.add_argument("--items", type=int, default=100_000, help="number of synthetic items (default: 100,000)")
    parser.add_argument("--trees", type=int, default=50, help="trees of the Annoy index (default: 50)")
    parser.add_argument("--recall", type=float, default=0.95, help="recall@100 of the index (default: 0.95)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round in seconds (default: 2)")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        base = copy_or_train(arguments.store, folder, store)
        began = time.perf_counter()
        made = make(store, base, arguments.items, arguments.trees, arguments.recall)
        print(
            f"\n{arguments.items:,} items, {arguments.trees} trees, search budget {made.manifest.index.search_budget}: "
            f"recall@{K} {made.recall:.3f}; made in {time.perf_counter() - began:.0f} s\n",
            flush=True,
        )
        found = _Bench(store, base, made, folder, arguments.rounds, arguments.seconds).run()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


class _Bench:
    def __init__(self, store: FolderStore, base: str, made: Made, folder: Path, rounds: int, seconds: float) -> None:
        self._store, self._made, self._folder = store, made, folder
        self._rounds, self._seconds = rounds, seconds
        golden_queries = GoldenQueries.read(store.path(base) / GOLDEN_QUERIES)
        names = golden_queries.columns
        self._features = [
            {n: names[n][row] for n in names if names[n][row] is not None}
            for row in range(min(len(golden_queries), 50))
        ]
        self._searches = [Search(embedding=vector.tolist(), k=K) for vector in made.queries]

    def run(self) -> dict[str, Any]:
        found: dict[str, Any] = {"query tower": self._query_tower(), "ANN": self._ann()}
        found["retrieve"] = self._retrieve()
        found["workers"] = self._workers()
        return found

    def _query_tower(self) -> dict[str, Any]:
        single = [query_tower.to_request([each], "").SerializeToString() for each in self._features]
        batch = [query_tower.to_request((self._features * 32)[:32], "").SerializeToString()]
        with patch.dict(os.environ, {"GRPC_EXPERIMENTS": "event_engine_listener"}):
            replicas = [self._start("query_tower_service", "query_tower_service")]
        replicas += [
            self._start("query_tower_service", module) for module in ("query_tower_service", "benchmarks.services.echo")
        ]
        try:
            listener, ours, plain = replicas
            echo = self._target(plain, EMBED, single)
            rows = {
                "echo": echo,
                "EmbedQueries": self._target(ours, EMBED, single),
                "EmbedQueries, gRPC's threads read": self._target(listener, EMBED, single),
                "EmbedQueries, 32 queries": self._target(ours, EMBED, batch),
            }
            self._measure_in_turns(rows.values())
        finally:
            for replica in replicas:
                replica.stop()
        return _report("Query tower", rows, echo)

    def _ann(self) -> dict[str, Any]:
        version = self._made.manifest.model_version
        single = [ann.to_request([each], version, "").SerializeToString() for each in self._searches]
        hundred = [ann.to_request(self._searches[:100], version, "").SerializeToString()]
        item_count = self._made.manifest.item_count
        chosen = random.Random(9).sample(range(item_count), min(_EXCLUDED, item_count // 2))
        excluding = self._excluding([chosen] * _FEW)
        vectors = np.load(self._made.index.parent / VECTORS, mmap_mode="r")
        # Items that a user interacted with: the nearest ones, so that the first results of the index are all excluded.
        positives = self._excluding(np.argsort(-(self._made.queries[:_FEW] @ vectors.T))[:, :_POSITIVES].tolist())
        index = AnnoyIndex(self._made.manifest.dimension, "angular")
        index.load(str(self._made.index))
        queries, budget = self._made.queries.tolist(), self._made.manifest.index.search_budget
        in_process = Series()
        replicas = [
            self._start("ann_service", "benchmarks.services.echo"),
            self._start("ann_service", "ann_service"),
            self._start("ann_service", "ann_service", threads="2"),
        ]
        try:
            echo = self._target(replicas[0], SEARCH, single)
            ours = self._target(replicas[1], SEARCH, single)
            many = _MANY_CALLERS
            echo_many = self._target(replicas[0], SEARCH, single, many)
            ours_many = self._target(replicas[1], SEARCH, single, many)
            ours_hundred = self._target(replicas[1], SEARCH, hundred)
            rows = {
                "echo": echo,
                "SearchItems": ours,
                f"echo, {many} callers": echo_many,
                f"SearchItems, {many} callers": ours_many,
                "the same, 2 threads": self._target(replicas[2], SEARCH, single, many),
                "SearchItems, 100 searches": ours_hundred,
                f"SearchItems, the {_POSITIVES} nearest excluded": self._target(replicas[1], SEARCH, positives),
                f"SearchItems, {len(chosen):,} ids excluded": self._target(replicas[1], SEARCH, excluding),
            }
            for _ in range(self._rounds):
                for target in rows.values():
                    target.measure(self._seconds)
                with one_core():
                    measure_here(
                        lambda n: index.get_nns_by_vector(queries[n % len(queries)], K, budget, include_distances=True),
                        self._seconds,
                        in_process,
                    )
            for target in rows.values():
                target.close()
        finally:
            for replica in replicas:
                replica.stop()
        found = _report("ANN", rows, echo)
        print(f"{'Annoy in process':<40}{in_process.show():>28}")
        for callers, searches, floor in ((CALLERS, ours, echo), (many, ours_many, echo_many)):
            ratio = searches.series.times((1.0, in_process), (1.15, floor.series))
            print(f"{f'SearchItems / (in process + 1.15 x echo), {callers} callers':<60}{ratio:>24}")
        ratio = in_process.times((0.01, ours_hundred.series))
        print(f"{'in process / one of 100 searches in a call':<60}{ratio:>24}\n", flush=True)
        return {**found, "annoy in process": in_process.cpu_us}

    def _excluding(self, rows: Sequence[Sequence[int]]) -> list[bytes]:
        """Returns serialized SearchItems requests of the first queries, each with exclusions.

        Args:
            rows: for each query the rows of the items to exclude.
        """
        version = self._made.manifest.model_version
        left_out = [
            dataclasses.replace(search, exclude=[f"item-{row}" for row in own])
            for search, own in zip(self._searches, rows, strict=False)
        ]
        return [ann.to_request([each], version, "").SerializeToString() for each in left_out]

    def _retrieve(self) -> dict[str, float]:
        tower, catalogue = self._start("query_tower_service", "query_tower_service", every_core=True), None
        both: list[float] = []
        whole: list[float] = []
        try:
            catalogue = self._start("ann_service", "ann_service", every_core=True)
            with (
                QueryTowerClient(tower.address, timeout_s=10) as query_client,
                AnnClient(catalogue.address, timeout_s=10) as ann_client,
                Retriever(tower.address, catalogue.address, timeout_s=10) as retriever,
            ):
                end = time.perf_counter() + self._rounds * self._seconds
                number = 0
                while time.perf_counter() < end:
                    features = self._features[number % len(self._features)]
                    number += 1
                    began = time.perf_counter()
                    embedded = query_client.embed([features])
                    ann_client.search(with_embeddings([Search(k=K)], embedded), model_version=embedded.model_version)
                    middle = time.perf_counter()
                    retriever.retrieve(features, K)
                    both.append(middle - began)
                    whole.append(time.perf_counter() - middle)
        finally:
            for replica in (tower, catalogue):
                if replica is not None:
                    replica.stop()
        ratio = statistics.median(whole) / statistics.median(both)
        print("Client")
        print(
            f"both calls {statistics.median(both) * 1e3:.2f} ms, retrieve {statistics.median(whole) * 1e3:.2f} ms: ",
            end="",
        )
        print(f"{ratio:.3f} (medians of {len(whole):,})\n", flush=True)
        return {"both_ms": statistics.median(both) * 1e3, "retrieve_ms": statistics.median(whole) * 1e3, "ratio": ratio}

    def _workers(self) -> dict[str, Any]:
        replica = self._start("ann_service", "ann_service", every_core=True, workers="2")
        try:
            assert replica.process is not None
            family = psutil.Process(replica.process.pid)
            memory = [each.memory_full_info() for each in family.children()]
            parent = family.memory_full_info()
        finally:
            replica.stop()
        print("Workers of the ANN service: memory, MiB")
        found = {
            "worker, private": [m.uss / 2**20 for m in memory],
            "worker, with its share of what is shared": [m.pss / 2**20 for m in memory],
            "worker, resident": [m.rss / 2**20 for m in memory],
            "parent, private": [parent.uss / 2**20],
        }
        for name, values in found.items():
            print(f"{name:<44}{', '.join(f'{value:.0f}' for value in values):>12}")
        return found

    def _start(self, service: str, module: str, *, every_core: bool = False, **flags: str) -> Replica:
        folder = self._folder / f"{module}-{len(list(self._folder.iterdir()))}"
        flags = {"max-in-flight": "1000", "drain-delay-s": "0", **flags}
        replica = Replica(service, self._store.root, folder, flags, ("-m", module))
        with contextlib.nullcontext() if every_core else one_core():
            replica.start()
        replica.wait_until_serving()
        return replica

    def _target(self, replica: Replica, method: str, requests: Sequence[bytes], callers: int = CALLERS) -> Target:
        assert replica.process is not None
        return Target(replica.address, method, requests, replica.process.pid, callers)

    def _measure_in_turns(self, targets: Any) -> None:
        for _ in range(self._rounds):
            for target in targets:
                target.measure(self._seconds)
        for target in targets:
            target.close()


def _report(title: str, rows: dict[str, Target], floor: Target) -> dict[str, Any]:
    print(f"{title:<40}{'server CPU a call, µs':>28}{'x echo':>24}{'calls/s':>10}")
    for name, target in rows.items():
        series = target.series
        ratio = series.times((1.0, floor.series))
        print(f"{name:<40}{series.show():>28}{ratio:>24}{statistics.median(series.rate):>10,.0f}")
    print(flush=True)
    return {name: {"cpu_us": t.series.cpu_us, "rate": t.series.rate} for name, t in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
