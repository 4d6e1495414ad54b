"""Run as a program by `test_devices`: trains a shop on one device and on two, and prints the results as JSON.

The two are virtual devices of the processor, which have to be made before TensorFlow begins.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.trainer.world import recipe
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.features.schemas import learn_schemas
from trainer.model.trained_texts import LayeredAdamW
from trainer.progress import SilentTraining
from trainer.recipe.recipe import Recipe
from trainer.training import fit as fit_module
from trainer.training.fit import Fitted, fit, prepare
from trainer.training.workers import Workers


def main(folder: Path, runs: Path, cases: Mapping[str, Mapping[str, Any]]) -> None:
    """Trains each case, see `trained`, and prints the results of all by name. `runs` is a folder for checkpoints."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # One for all cases: a second one would number its collective operations as the first one did.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print(json.dumps({name: trained(folder, runs / name, strategy, **case) for name, case in cases.items()}))


def trained(
    folder: Path,
    run: Path,
    strategy: tf.distribute.Strategy,
    training: Mapping[str, Any],
    history: Mapping[str, Any],
    optimizer: str,
    resumes: bool,
) -> dict[str, Any]:
    """Trains two epochs on one device and on two, and returns how far losses and weights are apart.

    Args:
        folder: Folder of the shop.
        run: Folder to make for the checkpoints.
        strategy: Strategy of the two devices.
        training: Training keys of the recipe.
        history: Keys of the history feature.
        optimizer: "sgd" or "adamw".
        resumes: Whether to train the second epoch on two devices once more, from the checkpoint of the first one.
    """
    features = [
        {"name": "history", "kind": "history", "max_values": 10, **history},
        {"name": "age", "kind": "numeric"},
    ]
    item_features = [{"name": "item_id", "kind": "categorical"}, {"name": "year", "kind": "numeric"}]
    # Keras squares the rows of a sparse gradient one by one, so that Adam sees an item that both devices have as two
    # smaller ones. Plain descent sees the sum, and shows whether it is right.
    sgd = lambda *arguments, **named: keras.optimizers.SGD(0.1)  # noqa: E731
    fit_module.LayeredAdamW = {"sgd": sgd, "adamw": LayeredAdamW}[optimizer]
    # Without dropout: each device draws its own part, so the draws differ from those of one device.
    of = recipe(
        query_tower={"features": features, "dropout": 0.0},
        item_tower={"features": item_features, "dropout": 0.0},
        training={"epochs": 2, "batch_size": 120, **training},
    )
    one, two = Task(of, folder), Task(of, folder, strategy)
    (run / "whole").mkdir(parents=True)
    alone, shared = one.fit(), two.fit(folder=run / "whole", progress=KeepFirst(run / "whole", run / "begun"))
    found = {
        "losses": [[epoch["loss"] for epoch in fitted.epochs] for fitted in (alone, shared)],
        "moved": distance(one.initial_weights(), weights(alone)),
        "apart": distance(weights(alone), weights(shared)),
        "types": sorted({type(v.value).__name__ for tower in shared.towers for v in tower.variables}),
    }
    if resumes:
        resumed = two.fit(folder=run / "begun", resume=True)
        found["apart_when_resumed"] = distance(weights(shared), weights(resumed))
    return found


class KeepFirst(SilentTraining):
    """Copies the folder of a run after its first epoch, as a training that is stopped there leaves it."""

    def __init__(self, run: Path, begun: Path) -> None:
        self._run, self._begun = run, begun

    def epoch(self, measured: Mapping[str, Any]) -> None:
        if measured["epoch"] == 1:
            shutil.copytree(self._run, self._begun)


class Task:
    """A training of the shop on some devices."""

    def __init__(self, of: Recipe, folder: Path, strategy: tf.distribute.Strategy | None = None) -> None:
        self.recipe, self.strategy = of, strategy
        self.dataset = load_dataset(of, folder)
        self.train = splits.split(self.dataset, of.split).train
        self.schemas = learn_schemas(of, self.dataset, self.train)

    def fit(self, **arguments: Any) -> Fitted:
        workers = Workers(self.strategy) if self.strategy else None
        given = {"validate": None, "workers": workers, **arguments}
        return fit(self.recipe, self.dataset, self.schemas, self.train, **given)

    def initial_weights(self) -> list[np.ndarray]:
        _, model = prepare(self.recipe, self.dataset, self.schemas, self.train)
        return [weight for tower in (model.query_tower, model.item_tower) for weight in tower.get_weights()]


def weights(fitted: Fitted) -> list[np.ndarray]:
    return [weight for tower in fitted.towers for weight in tower.get_weights()]


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Returns the largest difference of a weight."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
