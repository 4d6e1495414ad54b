"""Several vectors a query, one for each interest of a user; an item's score is the largest of its scores.

Cen et al. 2020, "Controllable Multi-Interest Framework for Recommendation" (ComiRec), section 3.2, self-attention: each
interest is a sum of the history's items, weighted by a head of attention of its own. Two things differ. A head learns a
weight for each rank in place of embeddings of positions, so that all prefixes of a sequence are trained at once, as
`trainer.history` does. And what the history's encoder makes of it is added to each, so that one interest is not worse
than none. As there, and in MIND (Li et al. 2019, "Multi-Interest Network with Dynamic Routing for Recommendation at
Tmall"), a training pair counts for the interest that likes its item best.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

_HIGHEST_LOGIT = 8.0
"""So that exp of a logit, summed over a long history, stays far from the limits of float32."""


@keras.saving.register_keras_serializable(package="two_tower")
class InterestHeads(keras.layers.Layer):
    """A history to one vector for each interest: means of its items, weighted by what they are and by their rank.

    Head k weighs item j, with embedding e and rank r, by ``exp(w_k · tanh(W e_j) + b_k[r_j])``.

    Args:
        interests: how many.
        max_values: how many of the newest items count.
        rate: of dropout on the item embeddings, in training.
    """

    def __init__(self, interests: int, max_values: int, rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.interests, self.max_values, self.rate = interests, max_values, rate
        self.dropout = keras.layers.Dropout(rate, dtype="float32")

    def build(self, embeddings_shape: Any, mask_shape: Any = None) -> None:
        """Makes the weights. Heads start apart: from the plain mean of all to the newest items above all."""
        dimension = embeddings_shape[-1]
        self.mix = keras.layers.Dense(dimension, activation="tanh", use_bias=False, dtype="float32", name="mix")
        self.heads = keras.layers.Dense(self.interests, use_bias=False, dtype="float32", name="heads")
        for layer in (self.mix, self.heads):
            layer.build((None, None, dimension))
        steps = np.linspace(0.0, 2.0, self.interests, dtype=np.float32)  # [interests]
        start = -steps * np.log1p(np.arange(self.max_values, dtype=np.float32))[:, None]  # [max_values, interests]
        self.log_weights = self.add_weight(
            shape=start.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype),
            name="log_weights",
        )
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = {**super().get_config(), "interests": self.interests, "max_values": self.max_values, "rate": self.rate}
        del config["dtype"]
        return config

    def call(self, embeddings, mask, training=False):
        """Returns [batch, interests, dim] float32; zeros for an empty history.

        Args:
            embeddings: [batch, max_values, dim] floats, newest first.
            mask: [batch, max_values] float32.
            training: whether dropout is on.
        """
        shown = self.dropout(embeddings, training=training)
        weights = self._weights(shown, mask) * ops.exp(self.log_weights)  # [batch, max_values, interests]
        total = ops.expand_dims(ops.sum(weights, axis=1), -1)  # [batch, interests, 1]
        return ops.matmul(ops.transpose(weights, (0, 2, 1)), shown) / ops.maximum(total, 1e-9)

    def prefixes(self, embeddings, mask, training=False):
        """Returns [batch, length, interests, dim] float32: at t those of the events before t.

        Args:
            embeddings: [batch, length, dim] floats, oldest first, padded behind.
            mask: [batch, length] float32.
            training: whether dropout is on.
        """
        length, dimension = ops.shape(embeddings)[1], embeddings.shape[-1]
        at = ops.arange(length)
        rank = ops.expand_dims(at, 1) - 1 - ops.expand_dims(at, 0)  # [length, length], of event j as seen from t
        seen = ops.cast(ops.logical_and(rank >= 0, rank < self.max_values), "float32")
        by_rank = ops.transpose(ops.exp(self.log_weights))  # [interests, max_values]
        band = ops.take(by_rank, ops.clip(rank, 0, self.max_values - 1), axis=1) * seen  # [interests, length, length]
        shown = self.dropout(ops.cast(embeddings, "float32"), training=training)
        weights = ops.transpose(self._weights(shown, mask), (2, 1, 0))  # [interests, length, batch]
        weighted = ops.expand_dims(weights, -1) * ops.transpose(shown, (1, 0, 2))  # [interests, length, batch, dim]
        pooled = ops.matmul(band, ops.reshape(weighted, (self.interests, length, -1)))
        pooled = ops.reshape(pooled, (self.interests, length, -1, dimension))  # [interests, length, batch, dim]
        total = ops.expand_dims(ops.matmul(band, weights), -1)  # [interests, length, batch, 1]
        return ops.transpose(pooled / ops.maximum(total, 1e-9), (2, 1, 0, 3))

    def _weights(self, embeddings, mask):
        """Returns [batch, n, interests] float32: what an item is worth to each head, before its rank counts."""
        logits: Any = self.heads(self.mix(embeddings))
        bounded: Any = ops.tanh(logits / _HIGHEST_LOGIT)
        return ops.exp(_HIGHEST_LOGIT * bounded) * ops.expand_dims(ops.cast(mask, "float32"), -1)


def choose_interests(queries: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Returns of each query the interest that likes its positive best: [m, dim] float32 (ComiRec, eq. 9).

    Gradients reach that one alone.

    Args:
        queries: [m, interests, dim] float32, unit length; [m, dim]: returned as they are.
        positives: [m, dim] float32, unit length; row i is the positive of query i.
    """
    if queries.shape.rank == 2:
        return queries
    scores = tf.einsum("mkd,md->mk", queries, tf.cast(positives, queries.dtype))  # [m, interests]
    return tf.gather(queries, tf.argmax(scores, axis=1), axis=1, batch_dims=1)  # [m, dim]


def mean_cosine(queries: np.ndarray) -> float:
    """Returns the mean cosine of two interests of a query: near 1 where they have collapsed into one.

    Args:
        queries: [n, interests, dim] float32, unit length, interests at least 2.
    """
    count = queries.shape[1]
    cosines = np.einsum("nid,njd->nij", queries, queries)  # [n, interests, interests]
    return float((cosines.sum(axis=(1, 2)) - count).mean() / (count * (count - 1)))
