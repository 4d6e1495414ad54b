"""Synthetic tables that may exceed memory, and tools to measure and limit the memory of a process that reads them."""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

_PART = 1_000_000
"""Number of rows of each Parquet file."""


def made_recipe() -> Recipe:
    """Returns the recipe of a small model that reads the table of `write_events`."""
    return loading.parse(
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
        "testbed.large_tables",
    )


def write_events(path: Path, count: int, user_count: int, item_count: int) -> None:
    """Writes a synthetic table of events as a folder of Parquet files.

    The events of a user are scattered over the files, and few items have most of the events.

    Args:
        path: folder to create.
        count: number of events.
        user_count: number of users.
        item_count: number of items.
    """
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


def limit_data(budget_bytes: int) -> None:
    """Limits the memory that this process may allocate from now on; an allocation beyond the limit fails.

    Args:
        budget_bytes: largest growth of the process's data segment, in bytes.
    """
    taken = _status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (taken + budget_bytes, resource.RLIM_INFINITY))


class Memory:
    """Context that measures how much anonymous memory of this process grows, sampled by a thread.

    Attributes:
        idle: Anonymous memory at the start, in bytes.
        most: Largest growth above `idle` so far, in bytes.
    """

    def __init__(self) -> None:
        self.idle, self.most = 0, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        """Starts the sampling thread."""
        self.idle = _status("RssAnon")
        self._thread.start()
        return self

    def __exit__(self, *_exception: Any) -> None:
        """Stops the sampling thread; `most` is final then."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, _status("RssAnon") - self.idle)


def _status(name: str) -> int:
    """Returns a size in ``/proc/self/status`` by its name, for instance ``RssAnon``, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))
