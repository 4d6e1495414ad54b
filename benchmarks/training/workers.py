"""A training step of one worker and of two, by the size of the catalogue: ``python -m benchmarks.training.workers``.

Each worker is a process with a core of its own, and all are in a network namespace of their own, whose loopback device
counts the bytes between them (Linux, as root). Each item is bought at least once, so that the table of embeddings has
a row for nearly each. The first steps, in which TensorFlow builds its graphs, are left out. Other load on the machine
makes steps longer; the CPU time and the bytes stay what they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import print_table
from testbed.services import ROOT
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.features.schemas import learn_schemas
from trainer.progress import SilentTraining
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.training.cluster import read_cluster

_RECIPE = {
    "name": "synthetic",
    "interactions": {"path": "purchases.csv", "user": "user", "item": "item"},
    "items": {"path": "products.csv", "id": "item"},
    "query_tower": {"features": [{"name": "history", "kind": "history", "max_values": 10, "items": "tower"}]},
    "item_tower": {"features": [{"name": "item_id", "kind": "categorical", "embedding_dim": 64}]},
    "split": {"kind": "leave_last_one_out"},
}
_LEAST_USERS, _EVENTS_PER_USER = 6000, 12
_FIRST, _LAST = 10, 40
"""Steps between which is measured."""
_PORTS = (43117, 43118)
_LONGEST_S = 3600
"""Longest time in seconds of one training with all its workers."""


def main() -> int:
    """Prints a table of all sizes and numbers of workers, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.training.workers", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch-size", type=int, default=1024, help="targets of a step (default: 1024)")
    parser.add_argument("--loss", default="in_batch_softmax", help="loss of the recipe (default: in_batch_softmax)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # this process is a worker
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, arguments.batch_size, arguments.loss)), flush=True)
        os._exit(0)  # TensorFlow would wait for the other worker
    rows = []
    for items in arguments.items:
        with tempfile.TemporaryDirectory(prefix="two-tower-workers-") as name:
            write_tables(Path(name), items)
            for count in (1, 2):
                options = ["--folder", name, "--batch-size", str(arguments.batch_size), "--loss", arguments.loss]
                rows.append([f"{items:,}", str(count), *run(options, count)])
                print("   ".join(rows[-1]), file=sys.stderr, flush=True)
    head = ["items", "workers", "step, ms", "CPU of a worker, ms", "examples/s", "KiB sent", "memory of a worker, MiB"]
    print_table(f"a training step, {arguments.loss}, batch {arguments.batch_size}", head, rows)
    return 0


def write_tables(folder: Path, item_count: int) -> None:
    """Writes a table of `item_count` items, and purchases of some of them, to `folder`."""
    generator = np.random.default_rng(1)
    users = max(_LEAST_USERS, -(-item_count // _EVENTS_PER_USER))
    bought = generator.permutation(np.arange(users * _EVENTS_PER_USER) % item_count).reshape(users, -1)
    lines = [f"u{user},i{item}\n" for user, row in enumerate(bought.tolist()) for item in row]
    (folder / "purchases.csv").write_text("user,item\n" + "".join(lines))
    (folder / "products.csv").write_text("item\n" + "".join(f"i{item}\n" for item in range(item_count)))


def run(options: list[str], count: int) -> list[str]:
    """Trains with `count` workers, worker i on core i, and returns the cells of the table."""
    addresses = [f"127.0.0.1:{port}" for port in _PORTS[:count]]
    command = [sys.executable, "-m", "benchmarks.training.workers", *options]
    script = "ip link set lo up; "
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        script += f"TF_CONFIG='{json.dumps(config)}' taskset -c {index} {' '.join(command)} & "
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        ["timeout", str(_LONGEST_S), "unshare", "--net", "sh", "-c", script + "wait"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    if len(figures) != count:
        raise RuntimeError(f"{count - len(figures)} of {count} workers measured nothing; what they printed says why")
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    return [
        f"{mean['step_ms']:.0f}",
        f"{mean['cpu_ms']:.0f}",
        f"{mean['examples_per_second']:,.0f}",
        f"{mean['bytes'] / 1024:,.0f}",
        f"{mean['memory_mib']:,.0f}",
    ]


class _Enough(Exception):
    """All steps that are measured are done."""


class _Steps(SilentTraining):
    """Reads time, CPU time and bytes of the loopback device before and after the steps that are measured."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, float, int]] = []
        self._steps = 0

    def step(self, loss: float) -> None:
        self._steps += 1
        if self._steps in (_FIRST, _LAST):
            self.readings.append((time.perf_counter(), time.process_time(), _loopback_bytes()))
        if self._steps == _LAST:
            raise _Enough


def measure(folder: Path, batch_size: int, loss: str) -> dict[str, float]:
    """Trains some steps as one of the workers of TF_CONFIG, and returns the figures of a step.

    Args:
        folder: Folder of the tables.
        batch_size: Number of targets of a step.
        loss: Loss of the recipe.
    """
    import_tensorflow()
    from trainer.model import devices
    from trainer.training.fit import fit
    from trainer.training.workers import Workers, join

    cluster = read_cluster()
    workers = Workers(devices.strategy()) if cluster is None else join(cluster, 600)
    training = {"epochs": 1, "batch_size": batch_size, "loss": loss, "dimension": 64, "refit": False}
    recipe = loading.parse({**_RECIPE, "training": training}, "synthetic")
    dataset = load_dataset(recipe, folder)
    train = splits.split(dataset, recipe.split).train
    steps = _Steps()
    schemas = learn_schemas(recipe, dataset, train)
    with contextlib.suppress(_Enough):
        fit(recipe, dataset, schemas, train, validate=None, progress=steps, workers=workers)
    seconds, cpu, sent = np.subtract(*steps.readings[::-1]) / (_LAST - _FIRST)
    return {
        "step_ms": 1000 * seconds,
        "cpu_ms": 1000 * cpu,
        "examples_per_second": batch_size / seconds,
        "bytes": sent,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _loopback_bytes() -> int:
    """Returns the number of bytes that the loopback device of this network namespace has carried."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


if __name__ == "__main__":
    sys.exit(main())
