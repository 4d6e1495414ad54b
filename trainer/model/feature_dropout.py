"""Feature dropout: values are replaced by missing ones in training, so that the towers learn to work without them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY, PADDING

_register = keras.saving.register_keras_serializable(package="two_tower")


class FeatureDropout(keras.layers.Layer):
    """Base class of feature dropout. It changes nothing at a rate of 0, or outside training.

    Args:
        rate: Share of the values to drop.
        seed: Random seed. Default: drawn, as `keras.utils.set_random_seed` determines.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, values, training=False):
        """Returns `values`; in training some of them are dropped."""
        return self.drop(values) if training and self.rate else values

    def drop(self, values):
        """Returns `values`, some of them dropped."""
        raise NotImplementedError

    def draw(self, shape):
        """Returns uniform random numbers of a shape, 0 to 1."""
        return keras.random.uniform(shape, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class SlotDropout(FeatureDropout):
    """Drops single slots: they become out-of-vocabulary, so that this slot learns to represent any value."""

    def drop(self, slots):
        """Returns the slots, [...] int32; padding is kept."""
        dropped = self.draw(ops.shape(slots)) < self.rate
        return ops.where(ops.logical_and(dropped, ops.not_equal(slots, PADDING)), OUT_OF_VOCABULARY, slots)


@_register
class ValueDropout(FeatureDropout):
    """Drops a feature of a row: in half of the cases its slots become padding, else out-of-vocabulary."""

    def drop(self, slots):
        """Returns the slots, [batch, n] or [batch] int32; padding is kept."""
        draw = self.draw((ops.shape(slots)[0],) + (1,) * (len(slots.shape) - 1))
        missing = ops.where(ops.logical_or(slots == PADDING, draw < self.rate / 2), PADDING, OUT_OF_VOCABULARY)
        return ops.where(draw < self.rate, missing, slots)


@_register
class PresenceDropout(FeatureDropout):
    """Drops the number of a row: (value, 1) becomes (0, 0), the code of a missing number."""

    def drop(self, pairs):
        """Returns the pairs: [batch, 2] float32."""
        return pairs * ops.cast(self.draw((ops.shape(pairs)[0], 1)) >= self.rate, pairs.dtype)


@_register
class TextDropout(FeatureDropout):
    """Drops the text of a row: its vector becomes zeros, the code of a missing text."""

    def drop(self, vectors):
        """Returns the vectors: [batch, width] float32."""
        return vectors * ops.cast(self.draw((ops.shape(vectors)[0], 1)) >= self.rate, vectors.dtype)
