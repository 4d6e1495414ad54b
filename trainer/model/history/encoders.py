"""Encoders of the history: what a user met before, made one vector.

Each encoder is called in two ways that agree (a test holds them equal):

- `call`, as serving does: one history a row, newest first, as of `retrieval.bundle.features.schema.History`.
- `prefixes`, as training does: a sequence of events, oldest first, encoded at every position at once. Position t holds
  what came before event t and nothing of event t itself.

An item that is hidden or unknown (`mask` false) says nothing, and an empty history is the zero vector.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from retrieval.bundle.features.vocabulary import FIRST_VALUE, PADDING
from trainer.model.slot_embedding import look_up
from trainer.recipe.feature_inputs import HistoryInput

_register = keras.saving.register_keras_serializable(package="two_tower")
_MASKED = -1e9


@_register
class SlotMask(keras.layers.Layer):
    """Which slots hold an item that training knew: [...] float32, 1 or 0."""

    def call(self, slots):
        """Returns the mask of int32 slots of any shape."""
        return ops.cast(slots >= FIRST_VALUE, "float32")


class HistoryEncoder(keras.layers.Layer):
    """What all encoders share.

    Args:
        max_values: how many of the newest items count.
        rate: of dropout on the item embeddings, in training.
    """

    def __init__(self, max_values: int, rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_values, self.rate = max_values, rate
        self.dropout = keras.layers.Dropout(rate, dtype=self.dtype_policy)

    @property
    def context(self) -> int:
        """How many events before the first target a training sequence needs."""
        return self.max_values

    @property
    def targets(self) -> int:
        """How many targets a training sequence has at most."""
        return self.max_values

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "max_values": self.max_values, "rate": self.rate}

    def call(self, embeddings, mask, slots, training=False):
        """Returns [batch, dim] float32.

        Args:
            embeddings: [batch, max_values, dim] float32, newest first.
            mask: [batch, max_values] float32.
            slots: [batch, max_values] int32; padding tells how long the history is.
            training: whether dropout is on.
        """
        raise NotImplementedError

    def prefixes(self, embeddings, mask, training=False):
        """Returns [batch, length, dim] float32: at t the encoding of the events before t.

        Args:
            embeddings: [batch, length, dim] float32, oldest first, padded behind.
            mask: [batch, length] float32.
            training: whether dropout is on.
        """
        raise NotImplementedError


class Pooling(HistoryEncoder):
    """A weighted mean whose weights depend on the rank alone: 0 is the newest item. It is one of float32, always."""

    def weights_by_rank(self):
        """Returns [max_values, dim or 1] float32, above 0."""
        raise NotImplementedError

    def call(self, embeddings, mask, slots, training=False):
        """See `HistoryEncoder.call`."""
        by_rank: Any = self.weights_by_rank()
        shown = self.dropout(embeddings, training=training) * ops.expand_dims(mask, -1)
        pooled = ops.sum(shown * by_rank, axis=1)  # [batch, dim]
        return pooled / ops.maximum(ops.matmul(mask, by_rank), 1e-9)

    def prefixes(self, embeddings, mask, training=False):
        """See `HistoryEncoder.prefixes`."""
        at = ops.arange(ops.shape(embeddings)[1])
        rank = ops.expand_dims(at, 1) - 1 - ops.expand_dims(at, 0)  # [length, length], of event j as seen from t
        seen = ops.cast(ops.logical_and(rank >= 0, rank < self.max_values), "float32")
        by_rank = ops.take(ops.transpose(self.weights_by_rank()), ops.clip(rank, 0, self.max_values - 1), axis=1)
        band = by_rank * seen  # [dim or 1, length, length]
        embeddings = ops.cast(embeddings, "float32")
        shown = self.dropout(embeddings, training=training) * ops.expand_dims(mask, -1)
        total = ops.matmul(band, ops.transpose(mask))  # [dim or 1, length, batch]
        pooled = ops.matmul(band, ops.transpose(shown, (2, 1, 0)))  # [dim, length, batch]
        return ops.transpose(pooled / ops.maximum(total, 1e-9), (2, 1, 0))  # [batch, length, dim]


@_register
class Mean(Pooling):
    """The plain mean of the newest items."""

    def weights_by_rank(self):
        """Returns ones."""
        return ops.ones((self.max_values, 1))


@_register
class Positions(Pooling):
    """A weight for each rank and dimension, learned; it starts as 1 / (1 + rank)."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Makes the weights."""
        start = -np.log1p(np.arange(self.max_values, dtype=np.float32))  # [max_values]
        self.log_weights = self.add_weight(
            shape=(self.max_values, embeddings_shape[-1]),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(np.broadcast_to(start[:, None], shape), dtype),
            name="log_weights",
        )
        self.built = True

    def weights_by_rank(self):
        """Returns exp of the learned logarithms."""
        return ops.exp(self.log_weights)


@_register
class RankDecay(Pooling):
    """Weights that fall by one learned factor from an item to the next older one."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Makes the factor; it starts at 0.9."""
        self.logit = self.add_weight(shape=(), initializer=keras.initializers.Constant(2.2), name="logit")
        self.built = True

    def weights_by_rank(self):
        """Returns factor ** rank."""
        log_factor: Any = ops.log_sigmoid(self.logit)
        return ops.expand_dims(ops.exp(log_factor * ops.arange(self.max_values, dtype="float32")), 1)


@_register
class Recurrent(HistoryEncoder):
    """The last state of a GRU (Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks")."""

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Makes the cell."""
        dimension = embeddings_shape[-1]
        self.gru = keras.layers.GRU(dimension, return_sequences=True, name="gru")
        self.gru.build((None, None, dimension))
        self.built = True

    def call(self, embeddings, mask, slots, training=False):
        """See `HistoryEncoder.call`."""
        # Step by step, because LiteRT has no loops over lists of tensors.
        shown = self.dropout(embeddings, training=training)
        cell = self.gru.cell
        recurrent, bias, recurrent_bias = cell.recurrent_kernel, cell.bias[0], cell.bias[1]
        given = ops.matmul(shown, cell.kernel) + bias  # [batch, max_values, 3 dim]: update, reset, candidate
        state = ops.zeros_like(shown[:, 0])
        for at in reversed(range(self.max_values)):
            now, held = _thirds(given[:, at]), _thirds(ops.matmul(state, recurrent) + recurrent_bias)
            update: Any = ops.sigmoid(now[0] + held[0])
            reset: Any = ops.sigmoid(now[1] + held[1])
            new = update * state + (1.0 - update) * ops.tanh(now[2] + reset * held[2])
            here: Any = ops.expand_dims(mask[:, at], -1)  # the state stays where there is no item
            state = here * new + (1.0 - here) * state
        return state

    def prefixes(self, embeddings, mask, training=False):
        """See `HistoryEncoder.prefixes`."""
        shown = self.dropout(embeddings, training=training)
        return _shift(self.gru(shown, mask=ops.cast(mask, "bool"), training=training))


@_register
class Transformer(HistoryEncoder):
    """A causal, pre-norm transformer; learned positions, counted from the oldest item (SASRec: Kang & McAuley 2018).

    Args:
        layers: how many blocks.
        heads: of attention; they divide the dimension.
    """

    def __init__(self, max_values: int, rate: float = 0.0, layers: int = 1, heads: int = 2, **kwargs: Any) -> None:
        super().__init__(max_values, rate, **kwargs)
        self.layers, self.heads = layers, heads

    @property
    def context(self) -> int:
        """Half of a sequence, so that no target but the first ones of a user has a short history."""
        return max(1, self.max_values // 2)

    @property
    def targets(self) -> int:
        """The other half."""
        return max(1, self.max_values - self.context)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "layers": self.layers, "heads": self.heads}

    def build(self, embeddings_shape: Any, mask_shape: Any = None, slots_shape: Any = None) -> None:
        """Makes the blocks."""
        dimension = embeddings_shape[-1]
        if dimension % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {dimension} dimensions")
        self.positions = self.add_weight(
            shape=(self.max_values, dimension),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )
        self.blocks = [_Block(dimension, self.heads, self.rate, name=f"block_{at}") for at in range(self.layers)]
        for block in self.blocks:
            block.build_for(dimension)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.norm.build((None, None, dimension))
        self.built = True

    def call(self, embeddings, mask, slots, training=False):
        """See `HistoryEncoder.call`."""
        sent = ops.cast(ops.not_equal(slots, PADDING), "int32")  # [batch, max_values]
        at: Any = ops.arange(self.max_values)
        position = ops.sum(sent, axis=1, keepdims=True) - 1 - at  # [batch, max_values]
        older = ops.cast(ops.expand_dims(at, 1) <= ops.expand_dims(at, 0), "float32")  # newest first: j >= i is older
        states = self._encode(embeddings, mask, ops.maximum(position, 0), older, training)
        return states[:, 0] * ops.max(mask, axis=1, keepdims=True)

    def prefixes(self, embeddings, mask, training=False):
        """See `HistoryEncoder.prefixes`."""
        at = ops.arange(ops.shape(embeddings)[1])
        older = ops.cast(ops.expand_dims(at, 1) >= ops.expand_dims(at, 0), "float32")
        position = ops.expand_dims(ops.minimum(at, self.max_values - 1), 0)  # [1, length]
        states = self._encode(embeddings, mask, position, older, training)
        met = ops.cast(ops.cumsum(mask, axis=1) > 0, states.dtype)  # [batch, length]
        return _shift(states * ops.expand_dims(met, -1))

    def _encode(self, embeddings, mask, position, older, training):
        mask, older = ops.cast(mask, embeddings.dtype), ops.cast(older, embeddings.dtype)
        shown = embeddings * ops.expand_dims(mask, -1) * self.positions.shape[-1] ** 0.5
        positions = ops.cast(look_up(self.positions, position), embeddings.dtype)
        states = self.dropout(shown + positions, training=training)
        allowed = ops.expand_dims(older, 0) * ops.expand_dims(mask, 1)  # [batch, i, j]
        for block in self.blocks:
            states = block(states, ops.expand_dims(allowed, 1), training=training)
        return self.norm(states)


@_register
class _Block(keras.layers.Layer):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

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
        """Makes the weights of states of a dimension."""
        for layer in (self.norm_1, self.norm_2, self.mix, self.out, self.wide):
            layer.build((None, None, dimension))
        self.narrow.build((None, None, 2 * dimension))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "dimension": self.dimension, "heads": self.heads, "rate": self.rate}

    def call(self, states, allowed, training=False):
        """Returns [batch, length, dim] of such states; `allowed` [batch, 1, i, j] is 1 where i sees j, or 0."""
        drop_attention, drop_out, drop_wide = self.dropouts
        length, width = ops.shape(states)[1], self.dimension // self.heads
        mixed = ops.reshape(self.mix(self.norm_1(states)), (-1, length, 3, self.heads, width))
        query, key, value = (
            ops.transpose(mixed[:, :, at], (0, 2, 1, 3)) for at in range(3)
        )  # [batch, head, length, w]
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * width**-0.5  # [batch, head, i, j]
        # In float16 the mask would be infinite, and a row that sees nothing NaN.
        unseen = ops.subtract(1.0, ops.cast(allowed, "float32"))
        masked = ops.cast(logits, "float32") + unseen * _MASKED
        shares = ops.cast(ops.softmax(masked, axis=-1), value.dtype)
        attended = ops.matmul(drop_attention(shares, training=training), value)
        joined = ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, length, self.dimension))
        states = states + drop_out(self.out(joined), training=training)
        hidden = drop_wide(self.wide(self.norm_2(states)), training=training)
        return states + self.narrow(hidden)


def _thirds(gates: Any) -> list[Any]:
    """Returns update, reset and candidate of [batch, 3 dim], each [batch, dim]."""
    return ops.split(gates, 3, axis=-1)  # type: ignore[return-value]


def _shift(states):
    """Returns the states one later, zero first: [batch, length, dim]."""
    return ops.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def encoder(given: HistoryInput, name: str) -> HistoryEncoder:
    """Returns the encoder that a recipe names."""
    kinds = {"mean": Mean, "positions": Positions, "rank_decay": RankDecay, "gru": Recurrent}
    if given.encoder == "transformer":
        return Transformer(given.max_values, given.encoder_dropout, given.layers, given.heads, name=name)
    dtype = None if given.encoder == "gru" else "float32"  # None: that of the towers
    return kinds[given.encoder](given.max_values, given.encoder_dropout, name=name, dtype=dtype)
