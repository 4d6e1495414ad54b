"""Checks before a training over several processes: whether it can run so, and whether all workers agree."""

from __future__ import annotations

import platform

import keras
import numpy as np
import tensorflow as tf

from retrieval.version import version
from trainer.data.splits import Data
from trainer.errors import RunError
from trainer.recipe.feature_inputs import TextInput
from trainer.recipe.recipe import Recipe
from trainer.training.digests import digest_events, digest_items, digest_users
from trainer.training.workers import Workers


def check_workers(recipe: Recipe, data: Data, workers: Workers) -> None:
    """Checks that several workers can train a recipe, and that all have the same recipe, data and versions.

    All workers have to call it. It does nothing for a training in one process.

    Args:
        recipe: Training configuration.
        data: Data set and its split.
        workers: Processes that train together.

    Raises:
        RunError: The recipe trains text encoders, or workers differ.
    """
    if workers.count == 1:
        return
    features = (*recipe.query_tower.features, *recipe.item_tower.features)
    for feature in features:
        if isinstance(feature, TextInput) and feature.encoder_learning_rate is not None:
            raise RunError(
                f"feature {feature.name} trains its text encoder, which several workers cannot: train in one process "
                'without TF_CONFIG, or use mode = "frozen"'
            )
    dataset, _ = data
    workers.agree(
        {
            "recipe": recipe.to_json(),
            "digest of the interactions": digest_events(dataset.events),
            "digest of the users": digest_users(dataset),
            "digest of the items": digest_items(dataset),
            "version of the trainer": version(),
            "version of python": platform.python_version(),
            "version of numpy": np.__version__,
            "version of tensorflow": tf.__version__,
            "version of keras": keras.__version__,
            "number of devices": len(workers.own_devices),
        }
    )
