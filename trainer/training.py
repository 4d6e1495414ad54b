"""Fits the towers of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer import towers
from trainer.data import Dataset
from trainer.errors import TrainingError
from trainer.examples import Examples
from trainer.recipe import Recipe
from trainer.schema import Schemas
from trainer.splits import Parts

Validate = Callable[[tuple[keras.Model, keras.Model]], dict[str, float]]
Callbacks = list[keras.callbacks.Callback]


class Validation(keras.callbacks.Callback):
    """Adds the metrics of the validation part to the logs of each epoch, for the callbacks after it."""

    def __init__(self, validate: Validate) -> None:
        super().__init__()
        self._validate = validate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and writes into `logs`."""
        metrics = self._validate((self.model.query_tower, self.model.item_tower))
        if logs is not None:
            logs |= {f"val_{name}": value for name, value in metrics.items()}


def fit(
    recipe: Recipe,
    dataset: Dataset,
    schemas: Schemas,
    parts: Parts,
    *,
    validate: Validate,
    log_folder: Path,
    callbacks: Callbacks,
) -> tuple[keras.Model, keras.Model]:
    """Returns query tower and item tower, fitted on the training part.

    The same recipe and seed on the same machine give the same weights.

    Args:
        recipe: dimension, epochs, learning rate, seed.
        dataset: users and items.
        schemas: what the towers read.
        parts: of which only the training part is looked at.
        validate: gives the metrics that progress shows after each epoch.
        log_folder: for TensorBoard.
        callbacks: called last, with the validation metrics among the logs.
    """
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    examples = Examples(recipe, dataset, schemas, parts.train)
    query_tower, item_tower = towers.build(recipe, schemas)
    training = recipe.training
    model = towers.TwoTower(query_tower, item_tower, training.temperature, learn_temperature=training.learn_temperature)
    schedule = keras.optimizers.schedules.CosineDecay(training.learning_rate, examples.steps * training.epochs)
    model.compile(optimizer=keras.optimizers.AdamW(schedule, weight_decay=training.weight_decay), jit_compile=False)
    model.fit(
        examples.dataset().repeat(training.epochs),
        epochs=training.epochs,
        steps_per_epoch=examples.steps,
        shuffle=False,  # the examples shuffle themselves
        verbose=0,
        callbacks=[
            Validation(validate),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.TensorBoard(log_dir=str(log_folder), write_graph=False),
            *callbacks,
        ],
    )
    if not math.isfinite(float(model.loss_mean.result())):
        raise TrainingError("the loss is not finite; lower training.learning_rate or raise training.temperature")
    return query_tower, item_tower
