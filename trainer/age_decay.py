"""The history as a mean of its items that count less, the older they are."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.history import RankDecay

_LOG_2 = math.log(2.0)
_SECONDS_A_DAY = 86_400.0
_GAIN = 10.0
"""Of the learned logarithm: a rate may have to change by orders of magnitude, and Adam moves a weight little a step."""
_MASKED = -1e9


@keras.saving.register_keras_serializable(package="two_tower")
class AgeDecay(RankDecay):
    """Weights exp(-rate * age), with a learned rate; an event whose age is unknown counts by its rank.

    Args:
        half_life_days: where the rate starts.
    """

    def __init__(self, max_values: int, rate: float = 0.0, half_life_days: float = 30.0, **kwargs: Any) -> None:
        super().__init__(max_values, rate, **kwargs)
        self.half_life_start = half_life_days

    def build(
        self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None, ages_shape: Any = None
    ) -> None:
        """Makes the rate and the factor."""
        super().build(embeddings_shape)
        self.log_faster = self.add_weight(shape=(), initializer="zeros", name="log_faster")
        self.built = True

    @property
    def half_life_days(self) -> float:
        """After so long an event counts half."""
        return self.half_life_start * float(np.exp(-_GAIN * np.array(self.log_faster)))

    def call(self, embeddings, mask, slots, ages=None, training=False):
        """See `HistoryEncoder.call`.

        Args:
            embeddings: likewise.
            mask: likewise.
            slots: likewise.
            ages: [batch, max_values, 2] float32: log2(1 + seconds), 1 if present. None: all unknown.
            training: likewise.
        """
        if ages is None:
            return super().call(embeddings, mask, slots, training=training)
        days: Any = ops.expm1(ages[..., 0] * _LOG_2) / _SECONDS_A_DAY  # [batch, max_values]
        rate: Any = ops.exp(_GAIN * self.log_faster) * (_LOG_2 / self.half_life_start)
        log_factor: Any = ops.log_sigmoid(self.logit)
        by_rank = log_factor * ops.arange(self.max_values, dtype="float32")  # [max_values]
        log_weights = ops.where(ages[..., 1] > 0, -rate * days, by_rank) + (1.0 - mask) * _MASKED
        # Of the newest alone the rest is a share: a history that is years old says as much as one of today.
        newest = ops.stop_gradient(ops.max(log_weights, axis=1, keepdims=True))
        weights = ops.expand_dims(ops.exp(log_weights - newest) * mask, -1)  # [batch, max_values, 1]
        pooled = ops.sum(self.dropout(embeddings, training=training) * weights, axis=1)
        return pooled / ops.maximum(ops.sum(weights, axis=1), 1e-9)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "half_life_days": self.half_life_start}
