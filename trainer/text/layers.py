"""Token ids to a vector for each text: masks, means, and the two kinds of encoders."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

_TABLE = "tokens"
_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class TokenMask(keras.layers.Layer):
    """Which places of [n, length] token ids hold a token: int32.

    Args:
        pad_id: what the others hold.
    """

    def __init__(self, pad_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_id = pad_id

    def call(self, ids):
        """Returns [n, length] int32."""
        return ops.cast(ops.not_equal(ids, self.pad_id), "int32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "pad_id": self.pad_id}


@_register
class Segments(keras.layers.Layer):
    """Segment 0 for every token: there is one text, not a pair."""

    def call(self, ids):
        """Returns [n, length] int32."""
        return ops.zeros_like(ids)


@_register
class MeanText(keras.layers.Layer):
    """The mean over tokens, made unit length; zeros where a text has none."""

    def call(self, states, mask):
        """Returns [n, width] float32 of states [n, length, width] and mask [n, length]."""
        # expand_dims: `mask[..., None]` would need a flex op in LiteRT.
        weights = ops.expand_dims(ops.cast(mask, "float32"), -1)  # [n, length, 1]
        total = ops.sum(ops.cast(states, "float32") * weights, axis=1)
        mean = total / ops.maximum(ops.sum(weights, axis=1), 1.0)
        return _unit(mean)


def _unit(mean):
    return mean / ops.sqrt(ops.maximum(ops.sum(ops.square(mean), axis=-1, keepdims=True), 1e-12))


def static_vectors(encoder: keras.Model, ids: tf.Tensor, pad_id: int) -> tf.Tensor:
    """Returns what a `static_encoder` makes of ids [n, length], without a vector for every place: for training.

    Adds up straight from the table: memory and time are those of the tokens, not of the longest text.
    """
    table = tf.convert_to_tensor(encoder.get_layer(_TABLE).embeddings)
    places = tf.where(tf.not_equal(ids, pad_id))  # [tokens, 2]
    rows, count = tf.cast(places[:, 0], tf.int32), tf.shape(ids)[0]
    total = tf.sparse.segment_sum(table, tf.gather_nd(ids, places), rows, num_segments=count)  # [n, width]
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(rows, tf.float32), rows, count)
    return _unit(total / tf.expand_dims(tf.maximum(sizes, 1.0), -1))


def transformer_encoder(backbone: keras.Model, pad_id: int, name: str) -> keras.Model:
    """Returns [n, length] int32 token ids to [n, width] float32, unit length: mean pooling over a KerasHub backbone."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = TokenMask(pad_id, name="mask")(ids)
    inputs = {"token_ids": ids, "padding_mask": mask}
    if "segment_ids" in backbone.input:
        inputs["segment_ids"] = Segments(name="segments")(ids)
    states = backbone(inputs)
    if isinstance(states, dict):  # of BERT: the pooled output is not used
        states = states["sequence_output"]
    return keras.Model(ids, MeanText(name="pooled")(states, mask), name=name)


def static_encoder(token_count: int, width: int, pad_id: int, name: str) -> keras.Model:
    """Returns the same of a table with a vector for each token."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    states = keras.layers.Embedding(token_count, width, name=_TABLE)(ids)
    return keras.Model(ids, MeanText(name="pooled")(states, TokenMask(pad_id, name="mask")(ids)), name=name)
