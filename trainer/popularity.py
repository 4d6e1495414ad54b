"""Popularity as one more dimension of the embedding space, so that it stays a dot product of unit vectors.

An item's vector is ``[sqrt(1 - p²) u, p]`` of the tower's own ``u`` and its popularity ``p``; a query's is
``[sqrt(1 - w²) q, w]`` with the weight ``w`` that it gives to popularity, which the tower learns. Their dot product is
``sqrt(1 - w²) sqrt(1 - p²) q·u + w p``: the item's own vector need not learn how popular it is, and a query of which
nothing is known can ask for what is popular alone.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from bundle.vocabulary import FIRST_VALUE
from trainer import scratch
from trainer.events import Events
from trainer.recipe_training import Training

_register = keras.saving.register_keras_serializable(package="two_tower")

HIGHEST = 0.5
"""The popularity of the most popular item: what is left of its own vector is sqrt(0.75) = 0.87 long."""

_RARELY = -2.0
"""Start of the logit of a query's weight: w = 0.12."""


@_register
class ItemPopularity(keras.layers.Layer):
    """Adds an item's popularity to its vector.

    Attributes:
        shares: [slot_count] float32, 0 to 1, by slot of the item id; 0 for unknown items. `assign` sets it.

    Args:
        slot_count: slots of the vocabulary of items.
        highest: the popularity of the most popular item in its vector, above 0 and below 1.
    """

    def __init__(self, slot_count: int, highest: float = HIGHEST, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slot_count, self.highest = slot_count, highest
        self.shares = self.add_weight(shape=(slot_count,), initializer="zeros", trainable=False, name="shares")
        self.built = True

    def assign(self, slots: np.ndarray, popularity: np.ndarray) -> None:
        """Sets the popularity of items, 0 to 1, [n] float32 by their slots [n] int32; unknown ones have none."""
        shares = np.zeros(self.slot_count, dtype=np.float32)
        known = slots >= FIRST_VALUE
        shares[slots[known]] = popularity[known]
        self.shares.assign(shares)

    def call(self, vectors, slots):
        """Returns [batch, dim + 1] float32, unit length, of vectors [batch, dim] of that length and slots [batch]."""
        share: Any = ops.expand_dims(ops.take(self.shares, slots), -1)
        share = self.highest * share
        return ops.concatenate([vectors * ops.sqrt(1.0 - share * share), share], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "slot_count": self.slot_count, "highest": self.highest}


@_register
class QueryPopularity(keras.layers.Layer):
    """Adds to a query's vector how much popularity counts: a logistic regression on what the tower knows."""

    def build(self, vectors_shape: Any, known_shape: Any) -> None:
        """Makes the weights."""
        self.logit = keras.layers.Dense(
            1,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(_RARELY),
            dtype="float32",  # as this layer, whatever the towers compute in
            name="logit",
        )
        self.logit.build(known_shape)
        self.built = True

    def call(self, vectors, known):
        """Returns [batch, dim + 1] float32, unit length.

        Args:
            vectors: [batch, dim] float32, unit length.
            known: [batch, m] float32, what the tower knows of the query.
        """
        weight: Any = ops.sigmoid(self.logit(known))
        return ops.concatenate([vectors * ops.sqrt(1.0 - weight * weight), weight], axis=-1)


@_register
class QueryPrior(keras.layers.Layer):
    """Adds the weight of the prior to a query's vector, the same for all.

    Args:
        weight: above 0 and below 1.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, vectors):
        """Returns [..., dim + 1] float32, unit length, of vectors [..., dim] of that length."""
        last = ops.full_like(vectors[..., :1], math.sqrt(self.weight))
        return ops.concatenate([vectors * math.sqrt(1.0 - self.weight), last], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "weight": self.weight}


def shares(training: Training, events: Events, item_count: int) -> np.ndarray:
    """Returns how popular each item is: [item_count] float32, 0 to 1, the logarithm of its events.

    Args:
        training: whether an event counts less the older it is.
        events: to count.
        item_count: of the catalogue.
    """
    if training.popularity == "recent":
        newest = float(events.times.max())
        half_life_s = training.popularity_half_life_days * 86_400.0
        counts = np.zeros(item_count)
        for block in scratch.blocks(len(events)):
            weights = 0.5 ** ((newest - events.times[block]) / half_life_s)
            counts += np.bincount(events.items[block], weights, minlength=item_count)
    else:
        counts = events.item_counts(item_count).astype(np.float64)
    logs = np.log1p(counts)
    return (logs / max(float(logs.max()), 1e-9)).astype(np.float32)
