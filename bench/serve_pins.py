"""What it brings to keep each worker on a core of its own: ``python -m bench.serve_pins --store STORE``.

Two services of two query tower workers each, one with ``--pin`` and one with ``--no-pin``, get the same load by ghz in
turns: a closed loop, and an even rate of half of what the first closed loop reached. ghz shares the cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToJson

from bundle.store import BundleStore
from loadtest.data import make
from loadtest.ghz import ROOT, Run, execute
from rehearsal.pair import Replica

_VARIANTS = ("no-pin", "pin")


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(prog="bench.serve_pins", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--store", type=Path, required=True, help="whose live bundle is served")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="a round (default: 4)")
    parser.add_argument("--ghz", type=Path, default=ROOT / ".tools/bin/ghz", help="default: what make ghz installs")
    arguments = parser.parse_args()
    store = BundleStore(arguments.store.resolve())
    requests = make(store, store.live_version())["embed-single"]
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        written = ",".join(MessageToJson(request) for request in requests)
        (folder / "data" / "embed-single.json").write_text(f"[{written}]", encoding="utf-8")
        services: dict[str, Replica] = {}
        try:
            for variant in _VARIANTS:
                services[variant] = _start(store, folder / variant, variant)
            found = _take_turns(services, folder, arguments)
        finally:
            for service in services.values():
                service.stop()
    _print(found)
    return 0


def _start(store: BundleStore, folder: Path, variant: str) -> Replica:
    flags = {"workers": "2", "max-in-flight": "1000", "drain-delay-s": "0"}
    service = Replica("query_tower_service", store.root, folder, flags, ("-m", "query_tower_service", f"--{variant}"))
    service.start()
    service.wait_until_serving()
    return service


def _take_turns(services: dict[str, Replica], folder: Path, arguments: Any) -> dict[str, dict[str, list[float]]]:
    found = {variant: {name: [] for name in ("rate", "median", "p99", "ratio")} for variant in services}
    offered = 0.0
    for _ in range(arguments.rounds):
        for variant, service in services.items():
            run = Run(service.address, folder, arguments.seconds, 1.0, None)
            reached = execute(arguments.ghz, "embed-single", run)["rps"]
            found[variant]["rate"].append(reached)
            offered = offered or reached / 2
            report = execute(arguments.ghz, "embed-constant", dataclasses.replace(run, rate=offered))
            latency = {each["percentage"]: each["latency"] / 1e6 for each in report["latencyDistribution"]}
            found[variant]["median"].append(latency[50])
            found[variant]["p99"].append(latency[99])
            found[variant]["ratio"].append(latency[99] / latency[50])
    print(f"even rate: {offered:,.0f} calls/s\n")
    return found


def _print(found: dict[str, dict[str, list[float]]]) -> None:
    print("| workers | closed loop, calls/s | even rate: median ms | p99 ms | p99 / median |\n|---|---|---|---|---|")
    for variant, series in found.items():
        digits = {"rate": ",.0f", "median": ".2f", "p99": ".2f", "ratio": ".1f"}
        cells = (
            f"{statistics.median(values):{digits[name]}} ({min(values):{digits[name]}} to {max(values):{digits[name]}})"
            for name, values in series.items()
        )
        print(f"| --{variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
