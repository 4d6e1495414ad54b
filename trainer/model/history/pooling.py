"""History encoders that return a weighted mean of the embeddings of the newest items."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.model.history.encoder import HistoryEncoder

_register = keras.saving.register_keras_serializable(package="two_tower")


class Pooling(HistoryEncoder):
    """Base class of the encoders that return a weighted mean of the item embeddings, computed in float32.

    The weight of an item depends only on its rank in the history: 0 for the newest item, 1 for the one before.
    """

    def weights_by_rank(self):
        """Returns the weight of each rank: [max_values, dim or 1] float32, above 0."""
        raise NotImplementedError

    def call(self, embeddings, mask, slots, training=False):
        """Returns the encoded histories: [batch, dim] float32, see `HistoryEncoder.call`."""
        by_rank: Any = self.weights_by_rank()
        masked = self.dropout(embeddings, training=training) * ops.expand_dims(mask, -1)  # [batch, max_values, dim]
        pooled = ops.sum(masked * by_rank, axis=1)  # [batch, dim]
        return pooled / ops.maximum(ops.matmul(mask, by_rank), 1e-9)

    def prefixes(self, embeddings, mask, training=False):
        """Returns the encoded prefixes: [batch, length, dim] float32, see `HistoryEncoder.prefixes`."""
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
    """Unweighted mean of the embeddings of a history."""

    def weights_by_rank(self):
        """Returns ones: [max_values, 1] float32."""
        return ops.ones((self.max_values, 1))


@_register
class Positions(Pooling):
    """Mean of the embeddings of a history with a learned weight per rank and dimension, initially 1 / (1 + rank)."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the logarithms of the weights: [max_values, dim] float32."""
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
    """Mean of the embeddings of a history with weights factor ** rank, where the factor is learned."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the factor as a logit; the factor is initially 0.9."""
        self.logit = self.add_weight(shape=(), initializer=keras.initializers.Constant(2.2), name="logit")
        self.built = True

    def weights_by_rank(self):
        """Returns factor ** rank: [max_values, 1] float32."""
        log_factor: Any = ops.log_sigmoid(self.logit)
        return ops.expand_dims(ops.exp(log_factor * ops.arange(self.max_values, dtype="float32")), 1)
