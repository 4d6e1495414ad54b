"""Keras layers and models that turn token ids into one vector for each text."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

_TABLE = "tokens"
_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class TokenMask(keras.layers.Layer):
    """Computes the mask of token ids: 1 for a token, 0 for padding.

    Args:
        pad_id: Token id of padding.
    """

    def __init__(self, pad_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_id = pad_id

    def call(self, ids):
        """Returns the mask of ids [n, length] int32: [n, length] int32."""
        return ops.cast(ops.not_equal(ids, self.pad_id), "int32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "pad_id": self.pad_id}


@_register
class Segments(keras.layers.Layer):
    """Computes segment ids: 0 for every token, as the input is one text and not a pair."""

    def call(self, ids):
        """Returns the segment ids of ids [n, length] int32: [n, length] int32."""
        return ops.zeros_like(ids)


@_register
class MeanText(keras.layers.Layer):
    """Averages the vectors of the tokens, and scales the mean to unit length; zeros for a text without tokens."""

    def call(self, states, mask):
        """Returns the mean vector of each text: [n, width] float32, unit length.

        Args:
            states: [n, length, width], vector of each token.
            mask: [n, length] int32, 1 for a token, 0 for padding.
        """
        # expand_dims: `mask[..., None]` would need a flex op in LiteRT.
        weights = ops.expand_dims(ops.cast(mask, "float32"), -1)  # [n, length, 1]
        total = ops.sum(ops.cast(states, "float32") * weights, axis=1)  # [n, width]
        mean = total / ops.maximum(ops.sum(weights, axis=1), 1.0)
        return _unit(mean)


def _unit(mean):
    return mean / ops.sqrt(ops.maximum(ops.sum(ops.square(mean), axis=-1, keepdims=True), 1e-12))


def static_vectors(encoder: keras.Model, ids: tf.Tensor, pad_id: int) -> tf.Tensor:
    """Computes the text vectors of a `static_encoder` in a form that is fast in training: [n, width] float32.

    It takes token ids [n, length] int32. Sums rows of the table directly, so that memory and time grow with the number
    of tokens and not with padding.
    """
    table = tf.convert_to_tensor(encoder.get_layer(_TABLE).embeddings)
    positions = tf.where(tf.not_equal(ids, pad_id))  # [tokens, 2]
    rows, count = tf.cast(positions[:, 0], tf.int32), tf.shape(ids)[0]
    total = tf.sparse.segment_sum(table, tf.gather_nd(ids, positions), rows, num_segments=count)  # [n, width]
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(rows, tf.float32), rows, count)
    return _unit(total / tf.expand_dims(tf.maximum(sizes, 1.0), -1))


def transformer_encoder(backbone: keras.Model, pad_id: int, name: str) -> keras.Model:
    """Returns a model that averages the states of a KerasHub backbone.

    Its input is token ids [n, length] int32, its output [n, width] float32, unit length.
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = TokenMask(pad_id, name="mask")(ids)
    inputs = {"token_ids": ids, "padding_mask": mask}
    if "segment_ids" in backbone.input:
        inputs["segment_ids"] = Segments(name="segments")(ids)
    states = backbone(inputs)
    if isinstance(states, dict):  # BERT returns a pooled output too
        states = states["sequence_output"]
    return keras.Model(ids, MeanText(name="pooled")(states, mask), name=name)


def static_encoder(token_count: int, width: int, pad_id: int, name: str) -> keras.Model:
    """Returns a model that averages vectors of a table with one row for each token.

    Its input is token ids [n, length] int32, its output [n, width] float32, unit length.
    """
    ids = keras.Input((None,), dtype="int32", name="ids")
    states = keras.layers.Embedding(token_count, width, name=_TABLE)(ids)
    return keras.Model(ids, MeanText(name="pooled")(states, TokenMask(pad_id, name="mask")(ids)), name=name)
