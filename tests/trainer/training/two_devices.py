"""Run as a program by `test_devices`: trains a shop on one device and on two, and prints the results as JSON.

The two are virtual devices of the processor, which have to be made before TensorFlow begins.
"""

from __future__ import annotations

import json
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
from trainer.progress import SilentTraining
from trainer.recipe.recipe import Recipe
from trainer.training import fit as fit_module
from trainer.training.fit import Fitted, fit


def main(folder: Path, run: Path, changes: dict[str, Any], history: dict[str, Any], *, plain: bool) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    features = [
        {"name": "history", "kind": "history", "max_values": 10, **history},
        {"name": "age", "kind": "numeric"},
        {"name": "gender", "kind": "categorical", "embedding_dim": 2},
    ]
    item_features = [
        {"name": "item_id", "kind": "categorical"},
        {"name": "genres", "kind": "multi_categorical", "embedding_dim": 4},
    ]
    if plain:
        # Keras squares the rows of a sparse gradient one by one, so that Adam sees an item that both devices have as
        # two smaller ones. Plain descent sees the sum, and shows whether it is right.
        fit_module.LayeredAdamW = lambda *arguments, **named: keras.optimizers.SGD(0.1)
    # Without dropout: each device draws its own part, so the draws differ from those of one device.
    of = recipe(
        query_tower={"features": features, "dropout": 0.0},
        item_tower={"features": item_features, "dropout": 0.0},
        training={"epochs": 2, "batch_size": 120, **changes},
    )
    one, two = Task(of, folder), Task(of, folder, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    alone, shared = one.fit(), two.fit()
    try:
        two.fit(folder=run, progress=Stop())
    except KeyboardInterrupt:
        resumed = two.fit(folder=run, resume=True)
    print(
        json.dumps(
            {
                "losses": [[epoch["loss"] for epoch in fitted.epochs] for fitted in (alone, shared)],
                "moved": distance(weights(alone), weights(one.fit(epochs=1))),
                "apart": distance(weights(alone), weights(shared)),
                "apart_when_resumed": distance(weights(shared), weights(resumed)),
                "types": sorted({type(v.value).__name__ for tower in shared.towers for v in tower.variables}),
            }
        )
    )


class Stop(SilentTraining):
    def epoch(self, measured: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt


class Task:
    """A training of the shop on some devices."""

    def __init__(self, of: Recipe, folder: Path, strategy: tf.distribute.Strategy | None = None) -> None:
        self.recipe, self.strategy = of, strategy
        self.dataset = load_dataset(of, folder)
        self.train = splits.split(self.dataset, of.split).train
        self.schemas = learn_schemas(of, self.dataset, self.train)

    def fit(self, *, epochs: int = 0, **arguments: Any) -> Fitted:
        of = recipe_of(self.recipe, epochs) if epochs else self.recipe
        given = {"validate": None, "strategy": self.strategy, **arguments}
        return fit(of, self.dataset, self.schemas, self.train, **given)


def recipe_of(of: Recipe, epochs: int) -> Recipe:
    from trainer.recipe import loading

    raw = of.to_json()
    raw["training"]["epochs"] = epochs
    return loading.parse(raw, "shop")


def weights(fitted: Fitted) -> list[np.ndarray]:
    return [weight for tower in fitted.towers for weight in tower.get_weights()]


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Returns the largest difference of a weight."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        json.loads(sys.argv[3]),
        json.loads(sys.argv[4]),
        plain=sys.argv[5] == "plain",
    )
