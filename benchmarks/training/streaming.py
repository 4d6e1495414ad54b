"""Trains from a synthetic Parquet table larger than memory: `python -m benchmarks.training.streaming --millions 50`.

Prints the size of the table, the memory that reading it and training one epoch take, and the share of the time that
training waits for input. Memory is the growth of the process's anonymous memory (RssAnon of Linux) after TensorFlow is
loaded and warmed up. Mapped pages of files do not count, because the kernel can reclaim them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from testbed.large_tables import Memory, limit_data, made_recipe, write_events
from trainer.cli import console
from trainer.data import sources
from trainer.data.dataset import load_dataset
from trainer.features.schemas import learn_schemas
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe.recipe import Recipe

_MIB = 2**20


def main() -> int:
    """Runs the measurement with the command line's arguments, and returns 0.

    An allocation beyond ``--budget-mb`` fails, and the error of the library that made it ends the program.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.training.streaming", description=__doc__)
    parser.add_argument("--millions", type=float, default=50, help="number of events, in millions (default: 50)")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--budget-mb", type=int, help="limit of memory above that of an idle process, in MiB")
    parser.add_argument("--folder", type=Path, help="folder to write the table to (default: a temporary one)")
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
    """Reads the data, trains one epoch, and prints the time and memory of both steps.

    Args:
        recipe: recipe to train, with one epoch.
        folder: folder of the recipe's tables.
        memory: running measurement of this process's memory.
        train: whether to train after reading.
    """
    from trainer.training.fit import fit

    began = time.perf_counter()
    data = sources.read(recipe, folder)
    console.print_data(recipe, data)
    print(f"read, split and summarised in {time.perf_counter() - began:.0f} s, most {memory.most / _MIB:,.0f} MiB")
    if not train:
        return
    schemas = learn_schemas(recipe, data.dataset, data.parts.train)
    (epoch,) = fit(recipe, data.dataset, schemas, data.parts.train, validate=None).epochs
    print(
        f"trained in {epoch['seconds']:.0f} s: {epoch['examples_per_second']:,.0f} examples/s, "
        f"{epoch['input_wait_share']:.1%} of the time waiting for input"
    )


def text_mib(path: Path) -> float:
    """Returns the estimated size of a table in memory with its columns as text, in MiB.

    The size of a row is measured on the first file and multiplied by the number of rows of all files.

    Args:
        path: folder of Parquet files.
    """
    parts = sorted(path.iterdir())
    frame = pl.read_parquet(parts[0])
    rows = sum(pl.scan_parquet(part).select(pl.len()).collect().item() for part in parts)
    return frame.estimated_size() / frame.height * rows / _MIB


def warm_up(folder: Path) -> None:
    """Reads and trains on a tiny table, so that libraries and their threads are part of the idle memory.

    Args:
        folder: folder to write the table to.
    """
    from trainer.training.fit import fit

    recipe, tiny = made_recipe(), folder / "tiny"
    tiny.mkdir()
    write_events(tiny / recipe.interactions.path, 5_000, 200, 100)
    dataset = load_dataset(recipe, tiny)
    fit(recipe, dataset, learn_schemas(recipe, dataset, dataset.events), dataset.events, validate=None)


if __name__ == "__main__":
    sys.exit(main())
