"""`make throughput`: compares training from Parquet with `keras.Model.fit` on arrays in memory, for the same model.

`keras.Model.fit` gets batches of one epoch that were prepared in memory beforehand. Both run alternately in one
process, so under the same load of the machine. Exits with 1 if the ratio of the median throughputs is below the target.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from trainer.data import sources, splits
from trainer.data.dataset import Dataset, load_dataset
from trainer.data.events import Events
from trainer.features.schemas import Schemas, learn_schemas
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

_FLOOR = 0.9


def main() -> int:
    """Runs the measurement with the command line's arguments, prints it, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.training.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds, each of which runs both (default: 5)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs per round, at least 2 (default: 3)")
    arguments = parser.parse_args()
    import_tensorflow()
    recipe = loading.load("movielens_100k")
    source = sources.data_folder(recipe, recipe.name)
    with tempfile.TemporaryDirectory(prefix="two-tower-throughput-") as folder:
        path = Path(folder) / "events.parquet"
        origin = recipe.interactions
        pl.read_csv(source / origin.path, separator=origin.separator).write_parquet(path)
        interactions = dataclasses.replace(origin, path=str(path))
        training = dataclasses.replace(recipe.training, epochs=arguments.epochs, refit=False)
        recipe = dataclasses.replace(recipe, interactions=interactions, training=training)
        task = read(recipe, source)
        ours, plain, waits = [], [], []
        for _ in range(arguments.rounds):
            rate, wait = from_parquet(task)
            ours.append(rate)
            waits.append(wait)
            plain.append(from_memory(task))
            shown = f"from Parquet {ours[-1]:,.0f} examples/s, {waits[-1]:.0%} of the time waiting for input"
            print(f"{shown}; in memory {plain[-1]:,.0f}")
    ratio = float(np.median(ours) / np.median(plain))
    print(f"medians: {np.median(ours):,.0f} and {np.median(plain):,.0f} examples/s, ratio {ratio:.2f}, target {_FLOOR}")
    return 0 if ratio >= _FLOOR else 1


Task = tuple[Recipe, Dataset, Schemas, Events]


def read(recipe: Recipe, folder: Path) -> Task:
    """Returns the recipe, its data set, the feature schemas, and the training events.

    Args:
        recipe: recipe whose interactions are a Parquet file.
        folder: folder of the recipe's other tables.
    """
    dataset = load_dataset(recipe, folder)
    train = splits.split(dataset, recipe.split).train
    return recipe, dataset, learn_schemas(recipe, dataset, train), train


def from_parquet(task: Task) -> tuple[float, float]:
    """Trains from the table; returns the examples per second and the share of the time spent waiting for input.

    The first epoch, which includes compilation, does not count.

    Args:
        task: recipe, data set, feature schemas and training events.
    """
    from trainer.training.fit import fit

    epochs = fit(*task, validate=None).epochs[1:]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    waited = sum(epoch["input_wait_share"] * epoch["seconds"] for epoch in epochs)
    return len(task[-1]) * len(epochs) / seconds, waited / seconds


def from_memory(task: Task) -> float:
    """Trains with `keras.Model.fit` on batches in memory, and returns the examples per second.

    The first epoch, which includes compilation, does not count.

    Args:
        task: recipe, data set, feature schemas and training events.
    """
    import keras

    from trainer.training.fit import prepare

    examples, model = prepare(*task)
    batches = list(examples.epoch(0))

    class InMemory(keras.utils.PyDataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> tuple[dict[str, Any]]:
            return (batches[index],)

    class Plain(keras.Model):
        def train_step(self, arrays: Any) -> dict[str, Any]:
            return {"loss": model.train_on(arrays[0] if isinstance(arrays, tuple) else arrays)}

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())

    clock = Clock()
    fitting = Plain()
    fitting.compile(optimizer="sgd", jit_compile=False)  # never used: `train_on` applies the model's own optimizer
    fitting.fit(InMemory(), epochs=task[0].training.epochs, shuffle=False, verbose=0, callbacks=[clock])
    return len(task[-1]) * (len(clock.ends) - 1) / (clock.ends[-1] - clock.ends[0])


if __name__ == "__main__":
    sys.exit(main())
