"""History encoder with a recurrent network."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.model.history.encoder import HistoryEncoder, shift


@keras.saving.register_keras_serializable(package="two_tower")
class Recurrent(HistoryEncoder):
    """History encoder that returns the last state of a GRU.

    Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks".
    """

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the GRU and its weights."""
        dimension = embeddings_shape[-1]
        self.gru = keras.layers.GRU(dimension, return_sequences=True, name="gru")
        self.gru.build((None, None, dimension))
        self.built = True

    def call(self, embeddings, mask, slots, training=False):
        """Returns the encoded histories: [batch, dim], see `HistoryEncoder.call`."""
        # Unrolled, because LiteRT has no loops over lists of tensors.
        inputs = self.dropout(embeddings, training=training)
        cell = self.gru.cell
        recurrent, bias, recurrent_bias = cell.recurrent_kernel, cell.bias[0], cell.bias[1]
        from_inputs = ops.matmul(inputs, cell.kernel) + bias  # [batch, max_values, 3 dim]: update, reset, candidate
        state = ops.zeros_like(inputs[:, 0])
        for step in reversed(range(self.max_values)):
            x = _thirds(from_inputs[:, step])
            h = _thirds(ops.matmul(state, recurrent) + recurrent_bias)
            update: Any = ops.sigmoid(x[0] + h[0])
            reset: Any = ops.sigmoid(x[1] + h[1])
            new = update * state + (1.0 - update) * ops.tanh(x[2] + reset * h[2])
            present: Any = ops.expand_dims(mask[:, step], -1)  # the state is kept where there is no item
            state = present * new + (1.0 - present) * state
        return state

    def prefixes(self, embeddings, mask, training=False):
        """Returns the encoded prefixes: [batch, length, dim], see `HistoryEncoder.prefixes`."""
        inputs = self.dropout(embeddings, training=training)
        return shift(self.gru(inputs, mask=ops.cast(mask, "bool"), training=training))


def _thirds(gates: Any) -> list[Any]:
    """Returns the three gates (update, reset, candidate) of `gates` [batch, 3 dim], each [batch, dim]."""
    return ops.split(gates, 3, axis=-1)  # type: ignore[return-value]
