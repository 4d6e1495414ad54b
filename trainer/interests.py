"""Several vectors a query, one for each interest of a user; an item's score is the largest of its scores.

A head for each interest turns what the history's encoder returns, v, into ``v + v W_k``; from there on all interests go
through the same tower. As in ComiRec (Cen et al. 2020, "Controllable Multi-Interest Framework for Recommendation") and
MIND (Li et al. 2019, "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall"), a training pair counts
for the interest that likes its item best. Unlike there, the heads read the encoded history and not its single items: on
MovieLens-100k, heads of attention over the items, as ComiRec-SA has them, ranked worse (docs/quality.md), and these go
with every encoder and its training on all prefixes.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

_START = 0.3
"""Length of ``v W_k`` at the start, as a share of that of v: apart enough that each pair has a favourite."""


@keras.saving.register_keras_serializable(package="two_tower")
class InterestHeads(keras.layers.Layer):
    """An encoded history to one vector for each interest.

    Args:
        interests: how many.
    """

    def __init__(self, interests: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interests = interests

    def build(self, encoded_shape: Any) -> None:
        """Makes the weights of all heads."""
        dimension = encoded_shape[-1]
        self.kernel = self.add_weight(
            shape=(dimension, self.interests * dimension),
            initializer=keras.initializers.RandomNormal(stddev=_START * dimension**-0.5),
            name="kernel",
        )
        self.built = True

    def call(self, encoded):
        """Returns [..., interests, dim] floats of [..., dim]; zeros of zeros, as of an empty history."""
        shape = (*ops.shape(encoded)[:-1], self.interests, encoded.shape[-1])
        corrections = ops.reshape(ops.matmul(encoded, self.kernel), shape)
        return ops.expand_dims(encoded, -2) + corrections

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "interests": self.interests}


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
