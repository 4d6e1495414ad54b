"""Feature dropout: a training step marks random values as missing, so that the towers learn to work without them.

A slot is the embedding index of a value of a vocabulary; two slots are reserved for padding and for unknown values.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY, PADDING

_register = keras.saving.register_keras_serializable(package="two_tower")


class FeatureDropout(keras.layers.Layer):
    """Base class of the feature dropout layers, which change nothing at a rate of 0 or outside training.

    Args:
        rate: Share of the values to drop, 0 to 1.
        seed: Random seed. Default: a seed drawn by Keras, reproducible with `keras.utils.set_random_seed`.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, values, training=False):
        """Returns `values`, in training after `drop`, with unchanged shape and dtype."""
        return self.drop(values) if training and self.rate else values

    def drop(self, values):
        """Returns `values` with a random share `rate` of them marked as missing, with unchanged shape and dtype."""
        raise NotImplementedError

    def draw(self, shape):
        """Returns uniform random numbers from 0 to 1, as a float32 tensor of the given shape."""
        return keras.random.uniform(shape, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class SlotDropout(FeatureDropout):
    """Replaces single slots by the out-of-vocabulary slot, which thus learns to represent an unknown value."""

    def drop(self, slots):
        """Returns the slots [...] int32, a random share of them replaced; padding is kept."""
        dropped = self.draw(ops.shape(slots)) < self.rate
        return ops.where(ops.logical_and(dropped, ops.not_equal(slots, PADDING)), OUT_OF_VOCABULARY, slots)


@_register
class ValueDropout(FeatureDropout):
    """Drops a categorical feature in random rows: half of them get padding, the others the out-of-vocabulary slot."""

    def drop(self, slots):
        """Returns the slots [batch, n] or [batch] int32, replaced in a random share of the rows; padding is kept."""
        draw = self.draw((ops.shape(slots)[0],) + (1,) * (len(slots.shape) - 1))
        missing = ops.where(ops.logical_or(slots == PADDING, draw < self.rate / 2), PADDING, OUT_OF_VOCABULARY)
        return ops.where(draw < self.rate, missing, slots)


@_register
class PresenceDropout(FeatureDropout):
    """Drops a numeric feature in random rows: (value, 1) becomes (0, 0), the code of a missing number."""

    def drop(self, pairs):
        """Returns the (value, presence) pairs [batch, 2] float32, replaced by (0, 0) in a random share of the rows."""
        return pairs * ops.cast(self.draw((ops.shape(pairs)[0], 1)) >= self.rate, pairs.dtype)


@_register
class TextDropout(FeatureDropout):
    """Drops a text feature in random rows: its vector becomes zeros, the code of a missing text."""

    def drop(self, vectors):
        """Returns the text vectors [batch, width] float32, replaced by zeros in a random share of the rows."""
        return vectors * ops.cast(self.draw((ops.shape(vectors)[0], 1)) >= self.rate, vectors.dtype)
