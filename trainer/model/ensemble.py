"""Ensembles: several two-tower models joined into one, whose score is the mean of their scores.

Networks that differ only by their seed make different errors, so that their mean has a lower error than each of them
(Hansen and Salamon 1990, "Neural Network Ensembles"). As a mean of dot products is a dot product of the concatenated
vectors, the result is an ordinary two-tower model, whose dimension is the sum of their dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

Towers = tuple[keras.Model, keras.Model]
"""Query tower and item tower of a model."""


def join(members: Sequence[Towers]) -> Towers:
    """Returns a query tower and an item tower whose dot product is the mean of the dot products of the given models.

    Args:
        members: Query tower and item tower of each model, at least one. All models have the same inputs and return
            vectors of unit length. Their towers become layers of the result.
    """
    if len(members) == 1:
        return members[0]
    return _join([query for query, _ in members]), _join([item for _, item in members])


def _join(towers: Sequence[keras.Model]) -> keras.Model:
    inputs = {name: keras.Input(t.shape[1:], dtype=t.dtype, name=name) for name, t in towers[0].input.items()}
    vectors = []
    for number, tower in enumerate(towers, 1):
        tower.name = f"member_{number}"  # layers of a saved model need distinct names
        vectors.append(tower(inputs))
    scale = keras.layers.Rescaling(1.0 / math.sqrt(len(towers)), dtype="float32", name="embedding")
    return keras.Model(inputs, scale(keras.layers.Concatenate(dtype="float32")(vectors)))
