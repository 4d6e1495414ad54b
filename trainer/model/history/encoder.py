"""The interface of the history encoders.

Each encoder has two methods that agree, which a test checks:

- `call`, for serving: one history in each row, newest first, as `retrieval.bundle.features.kinds.History` encodes it.
- `prefixes`, for training: a sequence of events, oldest first, encoded at every position at once. Position t encodes
  the events before event t, without event t itself.

Items that are dropped out or unknown (`mask` is 0) contribute nothing, and an empty history is the zero vector.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.vocabulary import FIRST_VALUE


@keras.saving.register_keras_serializable(package="two_tower")
class SlotMask(keras.layers.Layer):
    """Mask of the slots that hold an item of the vocabulary: [...] float32, 1 or 0."""

    def call(self, slots):
        """Returns the mask of int32 slots of any shape."""
        return ops.cast(slots >= FIRST_VALUE, "float32")


class HistoryEncoder(keras.layers.Layer):
    """Base class of the history encoders.

    Args:
        max_values: Number of the newest items that are read.
        rate: Dropout rate of the item embeddings in training.
    """

    def __init__(self, max_values: int, rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_values, self.rate = max_values, rate
        self.dropout = keras.layers.Dropout(rate, dtype=self.dtype_policy)

    @property
    def context(self) -> int:
        """Number of events that a training sequence needs before its first target."""
        return self.max_values

    @property
    def targets(self) -> int:
        """Largest number of targets of a training sequence."""
        return self.max_values

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        return {**super().get_config(), "max_values": self.max_values, "rate": self.rate}

    def call(self, embeddings, mask, slots, training=False):
        """Returns the encoded histories: [batch, dim] float32.

        Args:
            embeddings: [batch, max_values, dim] float32, newest first.
            mask: [batch, max_values] float32, 1 or 0.
            slots: [batch, max_values] int32; the padding shows the length of the history.
            training: Whether dropout is on.
        """
        raise NotImplementedError

    def prefixes(self, embeddings, mask, training=False):
        """Returns the encoded prefixes: [batch, length, dim] float32; position t encodes the events before event t.

        Args:
            embeddings: [batch, length, dim] float32, oldest first, right-padded.
            mask: [batch, length] float32, 1 or 0.
            training: Whether dropout is on.
        """
        raise NotImplementedError


def shift(states):
    """Returns states [batch, length, dim] moved one position later, zeros first: [batch, length, dim]."""
    return ops.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
