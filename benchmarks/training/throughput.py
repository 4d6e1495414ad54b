"""`make throughput`: training from Parquet beside plain `keras.Model.fit` on arrays in memory, of the same model.

`Model.fit` gets every batch of an epoch ready in memory and does nothing but train. Both run in turns in one process.
The exit code is 1 if the ratio of the median speeds misses the target.
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
    """Runs the measurement and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.training.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of both, in turns (default: 5)")
    parser.add_argument("--epochs", type=int, default=3, help="a round, 2 at least (default: 3)")
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
    """Returns the inputs of a training; the events come from the Parquet file that the recipe names."""
    dataset = load_dataset(recipe, folder)
    train = splits.split(dataset, recipe.split).train
    return recipe, dataset, learn_schemas(recipe, dataset, train), train


def from_parquet(task: Task) -> tuple[float, float]:
    """Returns examples a second and the share of time spent waiting for input, without the first epoch."""
    from trainer.training.fit import fit

    epochs = fit(*task, validate=None).epochs[1:]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    waited = sum(epoch["input_wait_share"] * epoch["seconds"] for epoch in epochs)
    return len(task[-1]) * len(epochs) / seconds, waited / seconds


def from_memory(task: Task) -> float:
    """Returns examples a second of `keras.Model.fit`, without the first epoch."""
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
    fitting.compile(optimizer="sgd", jit_compile=False)  # `train_on` has the model's own
    fitting.fit(InMemory(), epochs=task[0].training.epochs, shuffle=False, verbose=0, callbacks=[clock])
    return len(task[-1]) * (len(clock.ends) - 1) / (clock.ends[-1] - clock.ends[0])


if __name__ == "__main__":
    sys.exit(main())
