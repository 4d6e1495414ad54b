"""`embed-items` in processes of this machine, and on Ray: ``python -m benchmarks.training.embed_items``.

Each command runs as a user runs it. Two sizes are embedded, and the difference gives the CPU time without the start:
each process imports TensorFlow, which takes seconds. Other load of the machine changes CPU time little; that of a
cluster is not known here. The nodes of the cluster are processes of this machine, so Ray shows what it costs, not what
more machines gain. Exits with 1 if the bytes differ. Needs the extra ray.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.timing import print_table
from testbed.services import ROOT
from testbed.shards.cluster import ray_cluster

_RECIPE = """
name = "synthetic"
[interactions]
path = "purchases.csv"
user = "user"
item = "item"
[items]
path = "products.csv"
id = "item"
[items.attributes]
category = { column = "category", type = "string_list" }
brand = { column = "brand" }
price = { column = "price", type = "float" }
[query_tower]
features = [{ name = "history", kind = "history", max_values = 20 }]
[item_tower]
features = [
    { name = "item_id", kind = "categorical" },
    { name = "category", kind = "multi_categorical" },
    { name = "brand", kind = "categorical" },
    { name = "price", kind = "numeric" },
]
[training]
dimension = 64
epochs = 1
refit = false
"""
_USERS, _KNOWN, _FILES, _NODES = 300, 500, 8, 3


def main() -> int:
    """Prints a table, and returns 1 if two ways give other bytes."""
    parser = argparse.ArgumentParser(prog="benchmarks.training.embed_items", description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--slice-rows", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ray_cluster(_NODES, cpus=1) as cluster:
        folder = Path(temporary)
        _train(folder)
        sizes = (arguments.items // 10, arguments.items)
        for size in sizes:
            _write_products(folder / f"items-{size}", size)
        contenders = {
            "local, 1 process": ["--processes", "1"],
            "local, 2 processes": ["--processes", "2"],
            f"ray, {_NODES} nodes of 1 CPU": ["--engine", "ray", "--ray-address", cluster.address],
        }
        rows, written = [], []
        for name, flags in contenders.items():
            seconds: list[float] = []
            cpu_s: list[float] = []
            to = folder
            for size in sizes:
                to = folder / f"vectors-{len(rows)}-{size}"
                words = ["--store", folder / "store", "--items", folder / f"items-{size}", "--to", to]
                before = _cpu_s()
                began = time.perf_counter()
                _run("embed-items", *words, "--slice-rows", arguments.slice_rows, *flags)
                seconds.append(time.perf_counter() - began)
                cpu_s.append(_cpu_s() - before)
            written.append({path.name for path in (to / "parts").iterdir()})  # names have the checksums
            per_million = (cpu_s[1] - cpu_s[0]) / (sizes[1] - sizes[0]) * 1e6
            of_ray = "ray" in flags
            rows.append([name, f"{seconds[1]:.1f}", "" if of_ray else f"{per_million:.1f}"])
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        title = f"{sizes[1]:,} items in {_FILES} files, 64 dimensions; load average {load} on {os.cpu_count()} cores"
        print_table(title, ["", "seconds in total", "CPU s per 1,000,000 items"], rows)
    same = all(names == written[0] for names in written)
    print(f"bytes: {'all equal' if same else 'NOT equal'}")
    return 0 if same else 1


def _train(folder: Path) -> None:
    chance = random.Random(1)
    (folder / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    lines = [f"u{user},p{item}" for user in range(_USERS) for item in chance.sample(range(_KNOWN), 10)]
    (folder / "purchases.csv").write_text("\n".join(["user,item", *lines]) + "\n", encoding="utf-8")
    _products(_KNOWN).write_csv(folder / "products.csv")
    _run("train", folder / "recipe.toml", "--store", folder / "store", "--run", folder / "run", "--promote", "--force")


def _products(count: int) -> pl.DataFrame:
    generator = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "item": [f"p{number}" for number in range(count)],
            "category": [f"c{a}|c{b}" for a, b in generator.integers(0, 200, (count, 2))],
            "brand": [f"b{number}" for number in generator.integers(0, 1000, count)],
            "price": generator.lognormal(3, 1, count).round(2),
        }
    )


def _write_products(folder: Path, count: int) -> None:
    folder.mkdir()
    frame = _products(count)
    step = -(-count // _FILES)
    for number in range(_FILES):
        frame.slice(number * step, step).write_parquet(folder / f"part-{number}.parquet")


def _run(*words: object) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    command: Sequence[str] = [sys.executable, "-m", "trainer", *map(str, words), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    json.loads(done.stdout)


def _cpu_s() -> float:
    """Returns the CPU time of all processes that this one started and that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
