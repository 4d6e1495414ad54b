"""Several pairs of towers made one: their vectors stand side by side, so that a score is the mean of their scores.

Networks that differ by nothing but the seed err in different places, and their mean errs less than any of them (Hansen
and Salamon 1990, "Neural Network Ensembles"). The mean of dot products is a dot product, so what comes out is a pair of
towers as any other, of as many times the dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

Towers = tuple[keras.Model, keras.Model]


def join(members: Sequence[Towers]) -> Towers:
    """Returns query tower and item tower whose dot product is the mean of those of the members.

    Args:
        members: pairs of the same inputs, each vector of unit length; at least one. They become part of the result.
    """
    if len(members) == 1:
        return members[0]
    return _join([query for query, _ in members]), _join([item for _, item in members])


def _join(towers: Sequence[keras.Model]) -> keras.Model:
    inputs = {name: keras.Input(t.shape[1:], dtype=t.dtype, name=name) for name, t in towers[0].input.items()}
    vectors = []
    for number, tower in enumerate(towers, 1):
        tower.name = f"member_{number}"  # what is saved has to have distinct names
        vectors.append(tower(inputs))
    scale = keras.layers.Rescaling(1.0 / math.sqrt(len(towers)), dtype="float32", name="embedding")
    return keras.Model(inputs, scale(keras.layers.Concatenate(dtype="float32")(vectors)))
