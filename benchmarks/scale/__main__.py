"""`make scale`: measures small catalogues, predicts a larger one and its latency under load, and plans a fleet.

Two catalogues are measured, and the laws that they follow are compared with a third. A simulation of one replica is
compared with the latencies that the third one showed under load. Exits with 1 if a prediction is further off than 15 %.
Nothing else should run on the machine. `--plan-only FILE` makes plans from the figures of an earlier `--json FILE`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.scale import costs as measured_costs
from benchmarks.scale.costs import Costs
from benchmarks.scale.plan import Laws, fit, plan
from benchmarks.scale.simulation import batch_cost, fanned_out, latencies, poisson
from benchmarks.services.load import Target, one_core, other_cores
from benchmarks.timing import print_table
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES
from retrieval.store.folder_store import FolderStore
from testbed.services import Replica
from testbed.synthetic_catalogue import make_store
from two_tower_client import query_tower

LIMIT = 0.15
_SHARES = (0.3, 0.5, 0.7)
_EMBED = "/two_tower.query.v1.QueryTowerService/EmbedQueries"


@dataclass(frozen=True)
class Point:
    """A predicted and a measured figure.

    Attributes:
        name: What it is.
        unit: Its unit.
        predicted: From the laws or the simulation.
        measured: Measured.
    """

    name: str
    unit: str
    predicted: float
    measured: float

    @property
    def off(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1.0


def main() -> int:
    """Runs the measurement with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--items", type=int, nargs=3, default=[50_000, 400_000, 200_000], metavar="N")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each load (default: 6)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plan-only", type=Path, metavar="FILE", help="make plans from the figures of --json")
    arguments = parser.parse_args()
    if arguments.plan_only:
        print_plans(Laws(**json.loads(arguments.plan_only.read_text())["laws"]))
        return 0
    with tempfile.TemporaryDirectory(prefix="two-tower-scale-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        base = make_store(folder / "store", 2000).bundle_version
        embed_s = measure_embedding(store, base, folder, arguments.seconds)
        small, large, third = (
            measured_costs.measure(
                store, base, count, folder, arguments.seconds, _SHARES if count == arguments.items[2] else ()
            )
            for count in arguments.items
        )
    laws = fit(small, large, embed_s)
    points = [*compare_laws(laws, third), *compare_loads(third)]
    print_costs([small, third, large], embed_s)
    print_table(
        f"Predicted from {small.item_count:,} and {large.item_count:,} items, measured with {third.item_count:,}",
        ["figure", "predicted", "measured", "off", f"within {LIMIT:.0%}"],
        [
            [
                f"{p.name}, {p.unit}",
                f"{p.predicted:.4g}",
                f"{p.measured:.4g}",
                f"{p.off:+.0%}",
                "yes" if abs(p.off) <= LIMIT else "NO",
            ]
            for p in points
        ],
    )
    print_plans(laws)
    if arguments.json:
        found = {"laws": asdict(laws), "points": [asdict(point) for point in points]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(abs(point.off) <= LIMIT for point in points) else 1


def measure_embedding(store: FolderStore, base: str, folder: Path, seconds: float) -> float:
    """Returns the CPU time of an `EmbedQueries` with one query in seconds."""
    golden = GoldenQueries.read(store.path(base) / GOLDEN_QUERIES)
    features = [
        {name: column[row] for name, column in golden.columns.items() if column[row] is not None}
        for row in range(min(len(golden), 50))
    ]
    replica = Replica("query_tower_service", store.root, folder / "query-tower", {"drain-delay-s": "0"})
    with one_core():
        replica.start()
    try:
        replica.wait_until_serving()
        assert replica.process is not None
        requests = [query_tower.to_request([each], "").SerializeToString() for each in features]
        target = Target(replica.address, _EMBED, requests, replica.process.pid, 16)
        with other_cores():
            target.measure(seconds)
        target.close()
    finally:
        replica.stop()
    return target.series.cpu_us[0] / 1e6


def compare_laws(laws: Laws, third: Costs) -> list[Point]:
    """Returns the laws' predictions for a catalogue beside its figures."""
    n = third.item_count
    return [
        Point("bytes of an item", "B", laws.bytes_an_item, sum(third.bytes_an_item.values())),
        Point("time to make the bundle", "s", laws.build(n), third.build_s),
        Point("time to open", "s", laws.open(n), third.open_s),
        Point("CPU of a search, 16 callers", "ms", 1e3 * laws.search(n), 1e3 * third.cpu_s[16]),
    ]


def compare_loads(costs: Costs) -> list[Point]:
    """Returns the simulated median latency of each load beside the measured one: medians over the rounds."""
    simulated: list[list[float]] = []
    measured: list[list[float]] = []
    for each in costs.rounds:
        cost_s, largest = batch_cost(each.batch_s, each.cpu_alone_s, each.cpu_at_once_s)
        overhead_s = max(0.0, each.alone_s - each.cpu_alone_s)
        wake_s = max(0.0, each.sparse_s - each.alone_s)
        found = [latencies(load.arrivals_s, cost_s, overhead_s, wake_s, largest) for load in each.served]
        simulated.append([float(np.median(one)) for one in found])
        measured.append([float(np.median(load.latencies_s)) for load in each.served])
    return [
        Point(f"median latency at {share:.0%} of capacity", "ms", 1e3 * float(one), 1e3 * float(other))
        for share, one, other in zip(_SHARES, np.median(simulated, axis=0), np.median(measured, axis=0), strict=True)
    ]


def print_costs(measured: list[Costs], embed_s: float) -> None:
    """Prints what each catalogue costs."""
    rows = [
        [
            f"{c.item_count:,}",
            ", ".join(f"{kind} {size:.0f}" for kind, size in c.bytes_an_item.items()),
            f"{c.build_s:.0f}",
            f"{c.open_s:.1f}",
            f"{c.resident_mib:.0f}",
            f"{1e3 * c.alone_s:.2f}",
            ", ".join(f"{callers}: {1e3 * cpu:.2f}" for callers, cpu in c.cpu_s.items()),
            ", ".join(f"{callers}: {rate:.0f}" for callers, rate in c.rate.items()),
        ]
        for c in measured
    ]
    head = [
        "items",
        "bytes an item",
        "build s",
        "open s",
        "resident MiB",
        "alone ms",
        "CPU ms by callers",
        "searches/s by callers",
    ]
    print_table("Costs, one process on one core", head, rows)
    print(f"\nEmbedQueries, 1 query, 16 callers: {1e3 * embed_s:.3f} ms of CPU")


def print_plans(laws: Laws) -> None:
    """Prints plans of fleets, and what a query waits for its slowest shard."""
    rows: list[list[str]] = []
    for items, queries in ((1e6, 1e3), (1e7, 1e4), (1e8, 1e5), (1e9, 1e6)):
        p = plan(laws, items, queries, memory_gib=256, cores=32, utilisation=0.5)
        rows.append(
            [
                f"{items:,.0f}",
                f"{queries:,.0f}",
                f"{p.shards:,}",
                f"{p.replicas:,}",
                f"{p.ann_cores:,.0f}",
                f"{p.tower_cores:,.0f}",
                f"{p.memory_gib:.0f}",
                f"{p.gbit_s:,.1f}",
                f"{p.build_s / 3600:.1f}",
                f"{p.open_s / 60:.1f}",
            ]
        )
    head = [
        "items",
        "queries/s",
        "shards",
        "replicas each",
        "ANN cores",
        "tower cores",
        "GiB a replica",
        "Gbit/s",
        "build h",
        "open min",
    ]
    print_table("Fleets of machines with 256 GiB and 32 cores, half of them busy", head, rows)
    cost = laws.search(1e9 / max(1, int(rows[-1][2].replace(",", ""))))
    arrivals = poisson(0.5 / cost, 2000 * cost)
    waits = [
        [
            str(shards),
            *(
                f"{1e3 * float(np.percentile(fanned_out(arrivals, shards, lambda n: n * cost, 5e-4), q)):.1f}"
                for q in (50, 99)
            ),
        ]
        for shards in (1, 4, 16, 64)
    ]
    print_table("Simulated latency of a query over shards, at half load", ["shards", "median ms", "p99 ms"], waits)


if __name__ == "__main__":
    sys.exit(main())
