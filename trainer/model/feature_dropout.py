"""What hides values while the towers are fitted, so that they learn to do without."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY, PADDING

_register = keras.saving.register_keras_serializable(package="two_tower")


class Hiding(keras.layers.Layer):
    """What hides values in training: nothing at a rate of 0, or outside training.

    Args:
        rate: share to hide.
        seed: of the draws. Default: as `keras.utils.set_random_seed` says.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, values, training=False):
        """Returns `values`, some of them hidden in training."""
        return self.hide(values) if training and self.rate else values

    def hide(self, values):
        """Returns `values`, some of them hidden."""
        raise NotImplementedError

    def draw(self, shape):
        """Returns evenly spread numbers of a shape, 0 to 1."""
        return keras.random.uniform(shape, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class SlotDropout(Hiding):
    """Hides single slots: they become out-of-vocabulary, so that this slot learns to stand for any value."""

    def hide(self, slots):
        """Returns [...] int32 slots; padding stays."""
        hidden = self.draw(ops.shape(slots)) < self.rate
        return ops.where(ops.logical_and(hidden, ops.not_equal(slots, PADDING)), OUT_OF_VOCABULARY, slots)


@_register
class ValueDropout(Hiding):
    """Hides a feature of a row: its slots become padding, as where it is missing, or else, half the time, unknown."""

    def hide(self, slots):
        """Returns [batch, n] or [batch] int32 slots; padding stays."""
        draw = self.draw((ops.shape(slots)[0],) + (1,) * (len(slots.shape) - 1))
        hidden = ops.where(ops.logical_or(slots == PADDING, draw < self.rate / 2), PADDING, OUT_OF_VOCABULARY)
        return ops.where(draw < self.rate, hidden, slots)


@_register
class PresenceDropout(Hiding):
    """Hides the number of a row: (value, 1) becomes (0, 0), as where it is missing."""

    def hide(self, pairs):
        """Returns [batch, 2] float32."""
        return pairs * ops.cast(self.draw((ops.shape(pairs)[0], 1)) >= self.rate, pairs.dtype)


@_register
class TextDropout(Hiding):
    """Hides the text of a row: its vector becomes zeros, as where it is missing."""

    def hide(self, vectors):
        """Returns [batch, width] float32."""
        return vectors * ops.cast(self.draw((ops.shape(vectors)[0], 1)) >= self.rate, vectors.dtype)
