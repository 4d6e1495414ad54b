"""Embedding tables indexed by slot: the number of a value in the vocabulary of its feature."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


def look_up(table, slots):
    """Returns the rows of a table with the given indices: [..., width].

    `keras.ops.take` counts negative indices from the end, as NumPy does, which adds three ops for each table to an
    exported tower; the time of a single query depends on the number of ops more than on arithmetic.

    Args:
        table: [n, width], embedding table.
        slots: [...] int32, row indices, 0 to n - 1.
    """
    return tf.gather(ops.convert_to_tensor(table), slots)


@keras.saving.register_keras_serializable(package="two_tower")
class SlotEmbedding(keras.layers.Embedding):
    """An `Embedding` without support for negative indices."""

    def call(self, inputs):
        """Returns the embeddings of slots: [..., output_dim].

        Args:
            inputs: [...] int32, slots, 0 to input_dim - 1.
        """
        return ops.cast(look_up(self.embeddings, inputs), self.compute_dtype)
