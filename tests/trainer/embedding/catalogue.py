"""An items table of the shop in Parquet files, and what `embed-items` makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tests.trainer.world import GENRES, command

ROOT = Path(__file__).parents[3]
ROWS = (25, 0, 31, 24)
"""Number of rows of each file: 80 in total, in 3 + 0 + 4 + 3 slices of at most 10."""
SLICES = 10


def products(start: int, stop: int) -> pl.DataFrame:
    """Returns products ``q000``, ``q001`` and so on, whose attributes differ from row to row."""
    numbers = range(start, stop)
    return pl.DataFrame(
        {
            "product": [f"q{number:03}" for number in numbers],
            "title": [f"Title {number}" for number in numbers],
            "year": [None if number % 9 == 0 else 1970 + number for number in numbers],
            "genres": [f"{GENRES[number % 4]}|new" if number % 3 else GENRES[number % 4] for number in numbers],
        },
        schema={"product": pl.String, "title": pl.String, "year": pl.Int64, "genres": pl.String},
    )


def write_items(folder: Path) -> Path:
    """Writes the files of the table, and a file that is none of it."""
    folder.mkdir(parents=True)
    start = 0
    for number, count in enumerate(ROWS):
        products(start, start + count).write_parquet(folder / f"part-{number}.parquet")
        start += count
    (folder / "_SUCCESS").touch()
    return folder


def arguments(
    store: object, items: object, to: object, *others: object, slice_rows: int = 10, processes: int = 1
) -> list[str]:
    """Returns the words of the command."""
    words = ["embed-items", "--store", store, "--items", items, "--to", to, "--slice-rows", slice_rows, *others]
    return [*map(str, words), *(() if "ray" in others else ("--processes", str(processes))), "--json"]


def embed(store: object, items: object, to: object, *others: object, **settings: int) -> dict[str, Any]:
    """Runs the command, and returns the JSON that it prints."""
    return json.loads(command(*arguments(store, items, to, *others, **settings)))


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """Starts the command as a process of its own, in a group with all that it starts."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts(folder: Path) -> dict[str, bytes]:
    """Returns the content of each part by name."""
    return {path.name: path.read_bytes() for path in (folder / "parts").glob("*.parquet")}
