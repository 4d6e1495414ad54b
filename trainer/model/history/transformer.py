"""History encoder with a causal transformer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.vocabulary import PADDING
from trainer.model.history.encoder import HistoryEncoder, shift
from trainer.model.slot_embedding import look_up

_register = keras.saving.register_keras_serializable(package="two_tower")
_MASKED = -1e9
"""Attention logit of a masked position."""


@_register
class Transformer(HistoryEncoder):
    """History encoder with a causal, pre-norm transformer and learned positions, counted from the oldest item.

    Kang & McAuley 2018, "Self-Attentive Sequential Recommendation" (SASRec).

    Args:
        max_values: Largest number of items that the encoder reads, the newest ones.
        rate: Dropout rate in training, 0 to 1.
        layers: Number of transformer blocks.
        heads: Number of attention heads; a divisor of the dimension.
    """

    def __init__(self, max_values: int, rate: float = 0.0, layers: int = 1, heads: int = 2, **kwargs: Any) -> None:
        super().__init__(max_values, rate, **kwargs)
        self.layers, self.heads = layers, heads

    @property
    def context(self) -> int:
        """Number of events before the first target of a training sequence.

        It is half of a sequence, so that only the first targets of a user have a short history.
        """
        return max(1, self.max_values // 2)

    @property
    def targets(self) -> int:
        """Largest number of targets of a training sequence: half of it."""
        return max(1, self.max_values - self.context)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "layers": self.layers, "heads": self.heads}

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Creates the position embeddings and the transformer blocks.

        Raises:
            ValueError: The number of heads does not divide the dimension.
        """
        dimension = embeddings_shape[-1]
        if dimension % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {dimension} dimensions")
        self.positions = self.add_weight(
            shape=(self.max_values, dimension),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )
        self.blocks = [_Block(dimension, self.heads, self.rate, name=f"block_{index}") for index in range(self.layers)]
        for block in self.blocks:
            block.build_for(dimension)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.norm.build((None, None, dimension))
        self.built = True

    def call(self, embeddings, mask, slots, training=False):
        """Returns the encoded histories: [batch, dim], see `HistoryEncoder.call`."""
        present = ops.cast(ops.not_equal(slots, PADDING), "int32")  # [batch, max_values]
        index: Any = ops.arange(self.max_values)
        position = ops.sum(present, axis=1, keepdims=True) - 1 - index  # [batch, max_values]
        # Newest first: i attends to j >= i.
        causal = ops.cast(ops.expand_dims(index, 1) <= ops.expand_dims(index, 0), "float32")  # [max_values, max_values]
        states = self._encode(embeddings, mask, ops.maximum(position, 0), causal, training)
        return states[:, 0] * ops.max(mask, axis=1, keepdims=True)

    def prefixes(self, embeddings, mask, training=False):
        """Returns the encoded prefixes: [batch, length, dim], see `HistoryEncoder.prefixes`."""
        index = ops.arange(ops.shape(embeddings)[1])
        causal = ops.cast(ops.expand_dims(index, 1) >= ops.expand_dims(index, 0), "float32")  # [length, length]
        position = ops.expand_dims(ops.minimum(index, self.max_values - 1), 0)  # [1, length]
        states = self._encode(embeddings, mask, position, causal, training)
        has_items = ops.cast(ops.cumsum(mask, axis=1) > 0, states.dtype)  # [batch, length]
        return shift(states * ops.expand_dims(has_items, -1))

    def _encode(self, embeddings, mask, position, causal, training):
        """Returns the state of each position after all blocks: [batch, length, dim].

        Args:
            embeddings: [batch, length, dim], embeddings of the events.
            mask: [batch, length], 1 for events to use, else 0.
            position: [batch or 1, length] int32, index of the position embedding of each event.
            causal: [length, length], 1 where position i may attend to position j, else 0.
            training: Whether dropout is on.
        """
        mask, causal = ops.cast(mask, embeddings.dtype), ops.cast(causal, embeddings.dtype)
        items = embeddings * ops.expand_dims(mask, -1) * self.positions.shape[-1] ** 0.5  # [batch, length, dim]
        positions = ops.cast(look_up(self.positions, position), embeddings.dtype)  # [batch or 1, length, dim]
        states = self.dropout(items + positions, training=training)
        allowed = ops.expand_dims(causal, 0) * ops.expand_dims(mask, 1)  # [batch, i, j]
        for block in self.blocks:
            states = block(states, ops.expand_dims(allowed, 1), training=training)
        return self.norm(states)


@_register
class _Block(keras.layers.Layer):
    """A transformer block: self-attention and a feed-forward layer.

    Each of the two has a layer normalisation before it and a residual connection around it.

    Args:
        dimension: Dimension of the states.
        heads: Number of attention heads; a divisor of `dimension`.
        rate: Dropout rate in training, 0 to 1.
    """

    def __init__(self, dimension: int, heads: int, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dimension, self.heads, self.rate = dimension, heads, rate
        self.norm_1 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm_1")
        self.norm_2 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm_2")
        self.mix = keras.layers.Dense(3 * dimension, name="query_key_value")
        self.out = keras.layers.Dense(dimension, name="out")
        self.wide = keras.layers.Dense(2 * dimension, activation="gelu", name="wide")
        self.narrow = keras.layers.Dense(dimension, name="narrow")
        self.dropouts = [keras.layers.Dropout(rate) for _ in range(3)]

    def build_for(self, dimension: int) -> None:
        """Creates the weights of the block for states of `dimension` numbers."""
        for layer in (self.norm_1, self.norm_2, self.mix, self.out, self.wide):
            layer.build((None, None, dimension))
        self.narrow.build((None, None, 2 * dimension))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "dimension": self.dimension, "heads": self.heads, "rate": self.rate}

    def call(self, states, allowed, training=False):
        """Returns the states after the block: [batch, length, dim].

        Args:
            states: [batch, length, dim], states before the block.
            allowed: [batch, 1, length, length], 1 where position i may attend to position j, else 0.
            training: Whether dropout is on.
        """
        drop_attention, drop_out, drop_wide = self.dropouts
        length, width = ops.shape(states)[1], self.dimension // self.heads
        mixed = ops.reshape(self.mix(self.norm_1(states)), (-1, length, 3, self.heads, width))
        query, key, value = (
            ops.transpose(mixed[:, :, part], (0, 2, 1, 3)) for part in range(3)
        )  # [batch, head, length, width]
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * width**-0.5  # [batch, head, i, j]
        # In float32, as the mask is infinite in float16, which makes a fully masked row NaN.
        forbidden = ops.subtract(1.0, ops.cast(allowed, "float32"))
        masked = ops.cast(logits, "float32") + forbidden * _MASKED
        weights = ops.cast(ops.softmax(masked, axis=-1), value.dtype)
        attended = ops.matmul(drop_attention(weights, training=training), value)  # [batch, head, length, width]
        joined = ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, length, self.dimension))
        states = states + drop_out(self.out(joined), training=training)
        hidden = drop_wide(self.wide(self.norm_2(states)), training=training)
        return states + self.narrow(hidden)
