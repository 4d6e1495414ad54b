"""Trains from a made Parquet table that may exceed the memory: `python -m rehearsal.streaming --millions 50`.

Says how large the table is, what memory it takes to read it and to train an epoch, and the share of the time that the
training waits for its input. Memory is what the process allocates (RssAnon of Linux), beside what it takes with
TensorFlow loaded and nothing done; pages of files, which the kernel takes back when it needs room, are told apart.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trainer import console, data, recipes, schema, sources
from trainer.quiet import import_tensorflow
from trainer.recipe import Recipe

_PART = 1_000_000
_MIB = 2**20


def main() -> int:
    """Runs the rehearsal; fails where more memory is asked for than allowed."""
    parser = argparse.ArgumentParser(prog="rehearsal.streaming", description=__doc__)
    parser.add_argument("--millions", type=float, default=50, help="of events (default: 50)")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--budget-mb", type=int, help="memory that may be allocated, beside that of an idle process")
    parser.add_argument("--folder", type=Path, help="for the table (default: a temporary one)")
    parser.add_argument("--read-only", action="store_true", help="read, split and summarise, but train nothing")
    arguments = parser.parse_args()
    import_tensorflow()
    with tempfile.TemporaryDirectory(prefix="two-tower-streaming-", dir=arguments.folder) as name:
        folder = Path(name)
        recipe = made_recipe()
        table = folder / recipe.interactions.path
        write_events(table, int(arguments.millions * 1e6), arguments.users, arguments.items)
        size = sum(path.stat().st_size for path in table.iterdir()) / _MIB
        warm_up(folder)
        with Memory() as memory:
            if arguments.budget_mb:
                limit_data(arguments.budget_mb * _MIB)
            run(recipe, folder, memory, train=not arguments.read_only)
        print(f"table: {size:,.0f} MiB of Parquet, {text_mib(table):,.0f} MiB as text columns in memory")
        print(
            f"most memory allocated: {memory.most / _MIB:,.0f} MiB beside {memory.idle / _MIB:,.0f} MiB of an idle one"
        )
    return 0


def run(recipe: Recipe, folder: Path, memory: Memory, *, train: bool) -> None:
    """Reads the data, trains one epoch and prints what each took."""
    from trainer import training

    began = time.perf_counter()
    dataset, parts = sources.read(recipe, folder)
    console.print_data(recipe, dataset, parts)
    print(f"read, split and summarised in {time.perf_counter() - began:.0f} s, most {memory.most / _MIB:,.0f} MiB")
    if not train:
        return
    schemas = schema.build(recipe, dataset, parts.train)
    (epoch,) = training.fit(recipe, dataset, schemas, parts.train, validate=None).epochs
    print(
        f"trained in {epoch['seconds']:.0f} s: {epoch['examples_per_second']:,.0f} examples/s, "
        f"{epoch['input_wait_share']:.1%} of the time waiting for input"
    )


def made_recipe() -> Recipe:
    """Returns a small model of the table that `write_events` makes."""
    return recipes.parse(
        {
            "name": "streaming",
            "interactions": {"path": "events.parquet", "user": "user", "item": "item", "time": "time"},
            "split": {"kind": "global_temporal"},
            "query_tower": {
                "hidden_units": [],
                "features": [
                    {"name": "history", "kind": "history", "max_values": 20, "encoder": "rank_decay"},
                    {"name": "hour", "kind": "categorical", "embedding_dim": 4},
                ],
            },
            "item_tower": {"hidden_units": [], "features": [{"name": "item_id", "kind": "categorical"}]},
            "training": {"dimension": 32, "epochs": 1, "batch_size": 2048, "temperature": 0.05},
        },
        "rehearsal.streaming",
    )


def write_events(path: Path, count: int, user_count: int, item_count: int) -> None:
    """Writes a table as a folder of Parquet files, in no order of users; few items have most of the events."""
    path.mkdir()
    generator = np.random.default_rng(1)
    for number, start in enumerate(range(0, count, _PART)):
        size = min(_PART, count - start)
        users = generator.integers(0, user_count, size)
        items = (item_count * generator.random(size) ** 3).astype(np.int64)
        times = generator.integers(1_700_000_000, 1_730_000_000, size)
        pl.DataFrame({"user": users, "item": items, "time": times}).select(
            pl.format("customer-{}", pl.col("user")).alias("user"),
            pl.format("product-{}", pl.col("item")).alias("item"),
            "time",
        ).write_parquet(path / f"part-{number:05}.parquet")


def text_mib(path: Path) -> float:
    """Returns the size of the whole table in memory, by that of its first part: MiB."""
    parts = sorted(path.iterdir())
    frame = pl.read_parquet(parts[0])
    rows = sum(pl.scan_parquet(part).select(pl.len()).collect().item() for part in parts)
    return frame.estimated_size() / frame.height * rows / _MIB


def warm_up(folder: Path) -> None:
    """Reads and trains a tiny table, so that what an idle process takes holds every library and its threads."""
    from trainer import training

    recipe, tiny = made_recipe(), folder / "tiny"
    tiny.mkdir()
    write_events(tiny / recipe.interactions.path, 5_000, 200, 100)
    dataset = data.load(recipe, tiny)
    training.fit(recipe, dataset, schema.build(recipe, dataset, dataset.events), dataset.events, validate=None)


def limit_data(budget_bytes: int) -> None:
    """Makes each allocation fail that would take more than `budget_bytes` beside those of now."""
    taken = _status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (taken + budget_bytes, resource.RLIM_INFINITY))


class Memory:
    """Watches what the process allocates, in bytes, from `idle` on: `most` is the largest growth seen."""

    def __init__(self) -> None:
        self.idle, self.most = 0, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        """Begins to watch."""
        self.idle = _status("RssAnon")
        self._thread.start()
        return self

    def __exit__(self, *_exception: Any) -> None:
        """Ends."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, _status("RssAnon") - self.idle)


def _status(name: str) -> int:
    """Returns a figure of the process in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
