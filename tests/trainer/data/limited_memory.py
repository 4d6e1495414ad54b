"""Run as a program by `test_memory_limit`: reads a table and makes batches of it with little memory to allocate.

Arguments: folder of ``events.parquet``, MiB that may be allocated once a tiny table is read, rows of a block, and bytes
of the largest array in memory.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.large_tables import Memory, limit_data, made_recipe, write_events
from trainer.data import data_checks, spill, splits
from trainer.data.dataset import load_dataset
from trainer.data.profile import Summary
from trainer.features.schemas import learn_schemas
from trainer.training.examples import Examples


def main(folder: Path, budget_mib: int, block: int, in_memory_bytes: int) -> None:
    spill.BLOCK, spill.IN_MEMORY_BYTES, data_checks._SAMPLE_SIZE = block, in_memory_bytes, block
    recipe = made_recipe()
    with TemporaryDirectory() as tiny:
        write_events(Path(tiny) / "events.parquet", 1000, 50, 20)
        read(Path(tiny))
    with Memory() as memory:
        if budget_mib:
            limit_data(budget_mib * 2**20)
        events, steps = read(folder)
    print(recipe.name, events, steps, memory.most // 2**20)


def read(folder: Path) -> tuple[int, int]:
    """Reads, splits and summarises the table, makes five batches; returns the numbers of events and steps per epoch."""
    recipe = made_recipe()
    dataset = load_dataset(recipe, folder)
    parts = splits.split(dataset, recipe.split)
    Summary.of(recipe, splits.Data(dataset, parts))
    schemas = learn_schemas(recipe, dataset, parts.known)
    examples = Examples(recipe, dataset, schemas, parts.known, context=20, targets=20)
    for _ in itertools.islice(examples.epoch(0), 5):
        pass
    return len(dataset.events), examples.steps


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
