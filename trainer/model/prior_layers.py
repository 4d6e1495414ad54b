"""Keras layers that add the recent-popularity prior to the towers, see `trainer.training.popularity_prior`."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from retrieval.bundle.features.vocabulary import FIRST_VALUE

_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class ItemPopularity(keras.layers.Layer):
    """Extends the vector of an item by one dimension, which holds its recent popularity.

    Attributes:
        shares: [slot_count] float32, popularity of each item, 0 to 1, by the slot (embedding index) of its id; 0 for
            unknown items. `assign` sets it.

    Args:
        slot_count: Number of slots of the item vocabulary.
        highest: Value of the added dimension for the most popular item, above 0 and below 1.
    """

    def __init__(self, slot_count: int, highest: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slot_count, self.highest = slot_count, highest
        self.shares = self.add_weight(shape=(slot_count,), initializer="zeros", trainable=False, name="shares")
        self.built = True

    def assign(self, slots: np.ndarray, popularity: np.ndarray) -> None:
        """Sets the popularity of the given items, and 0 for all others.

        Args:
            slots: [n] int32, slots of the items; unknown items are skipped.
            popularity: [n] float32, popularity of each item, 0 to 1.
        """
        shares = np.zeros(self.slot_count, dtype=np.float32)
        known = slots >= FIRST_VALUE
        shares[slots[known]] = popularity[known]
        self.shares.assign(shares)

    def call(self, vectors, slots):
        """Returns the extended vectors: [batch, dim + 1] float32, unit length.

        Args:
            vectors: [batch, dim] float32, unit length.
            slots: [batch] int32, slots of the items.
        """
        share: Any = ops.expand_dims(ops.take(self.shares, slots), -1)  # [batch, 1]
        share = self.highest * share
        return ops.concatenate([vectors * ops.sqrt(1.0 - share * share), share], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "slot_count": self.slot_count, "highest": self.highest}


@_register
class QueryPrior(keras.layers.Layer):
    """Extends the vector of a query by one dimension, which holds the same weight of the prior for all queries.

    Args:
        weight: Weight of the recent-popularity prior in the score, above 0 and below 1.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, vectors):
        """Returns the extended vectors: [..., dim + 1] float32, unit length.

        Args:
            vectors: [..., dim] float32, unit length.
        """
        last = ops.full_like(vectors[..., :1], math.sqrt(self.weight))
        return ops.concatenate([vectors * math.sqrt(1.0 - self.weight), last], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "weight": self.weight}
