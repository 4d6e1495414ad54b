"""Several vectors a query, one for each interest of a user; an item's score is the largest of its scores.

A head for each interest turns what the history's encoder returns, v, into ``v + v W_k``; from there on all interests
go through the same tower. So the heads go with every encoder, and with its training on all prefixes. A training pair
counts for the interest that likes its item best, as in ComiRec (Cen et al. 2020, "Controllable Multi-Interest Framework
for Recommendation") and MIND (Li et al. 2019, "Multi-Interest Network with Dynamic Routing for Recommendation at
Tmall"). Two things differ from these, as they ranked better on MovieLens-100k (docs/quality.md): the heads read the
encoded history and not its single items, and a negative is scored like a positive, by the interest that likes it best
(`trainer.losses`), since that is how it is ranked when served.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
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


def mean_cosine(queries: np.ndarray) -> float:
    """Returns the mean cosine of two interests of a query: near 1 where they have collapsed into one.

    Args:
        queries: [n, interests, dim] float32, unit length, interests at least 2.
    """
    count = queries.shape[1]
    cosines = np.einsum("nid,njd->nij", queries, queries)  # [n, interests, interests]
    return float((cosines.sum(axis=(1, 2)) - count).mean() / (count * (count - 1)))
