"""Embedding tables that are asked for slots."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


def look_up(table, slots):
    """Returns [..., width] of a table [n, width] and int32 slots [...], each 0 to n - 1.

    `keras.ops.take` counts negative indices from the end, as NumPy does: three more steps a table each time that an
    exported tower runs, and a lone query pays for steps more than for arithmetic. No slot is negative.
    """
    return tf.gather(ops.convert_to_tensor(table), slots)


@keras.saving.register_keras_serializable(package="two_tower")
class SlotEmbedding(keras.layers.Embedding):
    """An `Embedding` that does without negative indices."""

    def call(self, inputs):
        """Returns [..., output_dim] of int32 slots [...], each 0 to input_dim - 1."""
        return ops.cast(look_up(self.embeddings, inputs), self.compute_dtype)
