"""`make bench`: runs all measurements that take less than an hour, one after another."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.movielens import train
from testbed.services import ROOT


def main() -> int:
    """Runs all measurements; returns 1 if one of them failed, else 0. A failure does not stop the later ones."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--store", type=Path, help="store whose live bundle has query tower and items (default: train)")
    parser.add_argument("--to", type=Path, default=Path("runs/bench"), help="folder for figures (default: runs/bench)")
    parser.add_argument("--short", action="store_true", help="at most 20,000 items, few rounds: under 5 minutes")
    arguments = parser.parse_args()
    folder = arguments.to.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="two-tower-bench-") as temporary:
        if arguments.store is None:
            store = FolderStore(Path(temporary) / "store")
            train(Path(temporary), store, 1, seed=1, force=True)
            arguments.store = store.root
        failed = [
            command[0] for command in commands(arguments.store.resolve(), folder, arguments.short) if not _runs(command)
        ]
    if failed:
        print(f"benchmarks: {', '.join(failed)} failed; see above", file=sys.stderr)
    return int(bool(failed))


def commands(store: Path, folder: Path, short: bool) -> list[list[str]]:
    """Returns the module and arguments of each measurement, in order.

    Args:
        store: store whose live bundle is used.
        folder: folder for the JSON files of figures.
        short: whether to use fewer items and rounds.
    """
    from_store = ["--store", str(store)]
    kinds = str(folder / "index-kinds.json")
    serve = ["--items", "20000", "--trees", "20", "--rounds", "3", "--seconds", "0.5"] if short else []
    sizes = ["3000", "10000"] if short else ["10000", "100000"]
    return [
        ["benchmarks.services.calls", *from_store, *serve, "--json", str(folder / "serve.json")],
        *([] if short else [["benchmarks.services.tail", *from_store]]),
        [
            "benchmarks.pair.compare",
            *from_store,
            *(["--short"] if short else []),
            "--json",
            str(folder / "serve-pair.json"),
        ],
        ["benchmarks.index.kinds", "--items", *sizes, "--rounds", "50" if short else "200", "--json", kinds],
        ["benchmarks.index.plots", "--kinds", kinds, "--to", str(folder / "growth.svg")],
        ["benchmarks.index.filters", "--items", sizes[-1], "--rounds", "20" if short else "60"],
    ]


def _runs(command: list[str]) -> bool:
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    # One thread of the numeric libraries: searches are timed one at a time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if command[0].startswith("benchmarks.index") else None
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
