"""The command line of ``python -m benchmarks.attack``.

Starts real service processes, attacks them over loopback with plain grpcio and hand-made HTTP/2, and prints one table.
Exits with 1 if a promise is missed, with 2 if the attack could not run. ``--tree`` starts the services of another
checkout, so that two revisions can be compared with the same attacks. The store is made once and kept in ``--out``.

On a machine with two cores or more, the service runs on the first half of them and the callers on the second half, so
that load generators do not take CPU time from the service, as they would not on a machine of their own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.attack.callers import CallersLost
from benchmarks.attack.requests import Requests
from benchmarks.attack.rows import Row, broken, exit_code, to_table
from benchmarks.attack.scenarios import cpu, fairness, memory, overload, silent
from benchmarks.attack.services import Setup
from retrieval.bundle.errors import BundleError
from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT, PairError
from testbed.synthetic_catalogue import make_store

_Attack = Callable[[Setup], Iterator[Row]]


def main() -> int:
    """Runs the attacks with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.attack", description=__doc__)
    parser.add_argument("--store", type=Path, help="store whose live bundle is served (default: a synthetic one)")
    parser.add_argument(
        "--items", type=int, default=100_000, help="items of the synthetic catalogue (default: 100,000)"
    )
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose services are attacked (default: this)")
    parser.add_argument("--short", action="store_true", help="fewer calls and streams, about 4 minutes, for CI")
    parser.add_argument("--only", action="append", help="name of an attack to run; repeatable (default: all)")
    parser.add_argument("--no-pin", action="store_true", help="let services and callers share all cores")
    parser.add_argument("--json", type=Path, help="file to write the table to, as JSON")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/attack", help="folder for store, logs and curve")
    arguments = parser.parse_args()
    curve: list[dict[str, object]] = []
    attacks: dict[str, _Attack] = {
        silent.NAME: silent.attack,
        memory.NAME: memory.attack,
        cpu.NAME: cpu.attack,
        overload.NAME: lambda setup: overload.attack(setup, curve),
        fairness.NAME: fairness.attack,
    }
    chosen = arguments.only or list(attacks)
    if unknown := sorted(set(chosen) - set(attacks)):
        parser.error(f"--only {unknown[0]}: expected one of {', '.join(attacks)}")
    try:
        store = arguments.store or _synthetic_store(arguments.out / f"store-{arguments.items}", arguments.items)
        requests = Requests(FolderStore(store.resolve()))
    except (BundleError, OSError, RuntimeError) as error:
        print(f"attack: {error}", file=sys.stderr)
        return 2
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="two-tower-attack-") as folder:
        setup = Setup(
            store=store.resolve(),
            tree=arguments.tree.resolve(),
            folder=Path(folder),
            requests=requests,
            is_full=not arguments.short,
            pins=not arguments.no_pin and len(cores) > 1,
        )
        rows = [row for name in chosen for row in _run(name, attacks[name], setup)]
    os.sched_setaffinity(0, cores)
    print(f"\n{to_table(rows)}")
    _write(arguments, setup, rows, curve)
    return exit_code(rows)


def _run(name: str, attack: _Attack, setup: Setup) -> Iterator[Row]:
    """Yields the rows of an attack as they become known; one that cannot be finished ends with a missed promise."""
    began = time.monotonic()
    try:
        for row in attack(setup):
            verdict = "ok  " if row.is_kept else "MISS"
            print(
                f"{verdict} {name}: {row.promise}: {row.figure:.4g} {row.unit}; {row.note}", file=sys.stderr, flush=True
            )
            yield row
    except (PairError, CallersLost, OSError) as error:
        yield broken(name, error)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _synthetic_store(root: Path, item_count: int) -> Path:
    """Returns a store with a synthetic catalogue; it is made unless an earlier run has left it."""
    if FolderStore(root).live() is None:
        for left in (root, root.with_name(f"{root.name}-training")):  # an earlier run was interrupted
            shutil.rmtree(left, ignore_errors=True)
        print(f"attack: making a store of {item_count:,} items, about a minute", file=sys.stderr, flush=True)
        make_store(root, item_count)
    return root


def _write(arguments: argparse.Namespace, setup: Setup, rows: list[Row], curve: list[dict[str, object]]) -> None:
    """Writes the table as JSON and the curve of goodput against load as CSV, where there is one."""
    if curve:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "goodput.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, overload.CURVE_COLUMNS)
            writer.writeheader()
            writer.writerows(curve)
        print(f"\n{path}")
    if arguments.json:
        found: dict[str, Any] = {
            "tree": str(setup.tree),
            "store": str(setup.store),
            "is_full": setup.is_full,
            "service_cores": setup.service_cores,
            "caller_cores": setup.caller_cores,
            "rows": [row.to_json() for row in rows],
            "goodput": curve,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
