"""Weighted means of the newest items."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.model.history.encoder import HistoryEncoder

_register = keras.saving.register_keras_serializable(package="two_tower")


class Pooling(HistoryEncoder):
    """A weighted mean whose weights depend on the rank alone: 0 is the newest item. It always computes in float32."""

    def weights_by_rank(self):
        """Returns the weight of each rank: [max_values, dim or 1] float32, above 0."""
        raise NotImplementedError

    def call(self, embeddings, mask, slots, training=False):
        """See `HistoryEncoder.call`."""
        by_rank: Any = self.weights_by_rank()
        masked = self.dropout(embeddings, training=training) * ops.expand_dims(mask, -1)  # [batch, max_values, dim]
        pooled = ops.sum(masked * by_rank, axis=1)  # [batch, dim]
        return pooled / ops.maximum(ops.matmul(mask, by_rank), 1e-9)

    def prefixes(self, embeddings, mask, training=False):
        """See `HistoryEncoder.prefixes`."""
        position = ops.arange(ops.shape(embeddings)[1])
        rank = ops.expand_dims(position, 1) - 1 - ops.expand_dims(position, 0)  # [length, length], of event j before t
        inside = ops.cast(ops.logical_and(rank >= 0, rank < self.max_values), "float32")
        by_rank = ops.take(ops.transpose(self.weights_by_rank()), ops.clip(rank, 0, self.max_values - 1), axis=1)
        band = by_rank * inside  # [dim or 1, length, length]
        embeddings = ops.cast(embeddings, "float32")
        masked = self.dropout(embeddings, training=training) * ops.expand_dims(mask, -1)  # [batch, length, dim]
        total = ops.matmul(band, ops.transpose(mask))  # [dim or 1, length, batch]
        pooled = ops.matmul(band, ops.transpose(masked, (2, 1, 0)))  # [dim, length, batch]
        return ops.transpose(pooled / ops.maximum(total, 1e-9), (2, 1, 0))  # [batch, length, dim]


@_register
class Mean(Pooling):
    """The plain mean."""

    def weights_by_rank(self):
        """Returns ones: [max_values, 1] float32."""
        return ops.ones((self.max_values, 1))


@_register
class Positions(Pooling):
    """A mean with a learned weight for each rank and dimension, initially 1 / (1 + rank)."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the weights."""
        start = -np.log1p(np.arange(self.max_values, dtype=np.float32))  # [max_values]
        self.log_weights = self.add_weight(
            shape=(self.max_values, embeddings_shape[-1]),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(np.broadcast_to(start[:, None], shape), dtype),
            name="log_weights",
        )
        self.built = True

    def weights_by_rank(self):
        """Returns the exponentials of the learned logarithms: [max_values, dim] float32."""
        return ops.exp(self.log_weights)


@_register
class RankDecay(Pooling):
    """A mean with weights that decay exponentially by rank, with one learned factor."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the factor, initially 0.9."""
        self.logit = self.add_weight(shape=(), initializer=keras.initializers.Constant(2.2), name="logit")
        self.built = True

    def weights_by_rank(self):
        """Returns factor ** rank: [max_values, 1] float32."""
        log_factor: Any = ops.log_sigmoid(self.logit)
        return ops.expand_dims(ops.exp(log_factor * ops.arange(self.max_values, dtype="float32")), 1)
