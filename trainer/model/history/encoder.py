"""Interface of the history encoders.

Each encoder has two methods, which give the same result for the same history:

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
    """Computes which slots (embedding indices) belong to an item of the vocabulary, not to padding or unknown items."""

    def call(self, slots):
        """Returns 1 for each slot of an item of the vocabulary, else 0: [...] float32, for slots [...] int32."""
        return ops.cast(slots >= FIRST_VALUE, "float32")


class HistoryEncoder(keras.layers.Layer):
    """Base class of the history encoders, which combine the embeddings of a history into one vector.

    Args:
        max_values: Largest number of items that the encoder reads, the newest ones.
        rate: Dropout rate of the item embeddings in training, 0 to 1.
    """

    def __init__(self, max_values: int, rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_values, self.rate = max_values, rate
        self.dropout = keras.layers.Dropout(rate, dtype=self.dtype_policy)

    @property
    def context(self) -> int:
        """Number of events before the first target of a training sequence."""
        return self.max_values

    @property
    def targets(self) -> int:
        """Largest number of targets of a training sequence."""
        return self.max_values

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name."""
        return {**super().get_config(), "max_values": self.max_values, "rate": self.rate}

    def call(self, embeddings, mask, slots, training=False):
        """Returns the encoded histories: [batch, dim] float32.

        Args:
            embeddings: [batch, max_values, dim] float32, embeddings of the events, newest first.
            mask: [batch, max_values] float32, 1 for events to use, 0 for dropped, unknown or padded ones.
            slots: [batch, max_values] int32, slots of the items; the padding shows the length of the history.
            training: Whether dropout is on.
        """
        raise NotImplementedError

    def prefixes(self, embeddings, mask, training=False):
        """Returns the encoded prefixes: [batch, length, dim] float32; position t encodes the events before event t.

        Args:
            embeddings: [batch, length, dim] float32, embeddings of the events, oldest first, right-padded.
            mask: [batch, length] float32, 1 for events to use, 0 for dropped, unknown or padded ones.
            training: Whether dropout is on.
        """
        raise NotImplementedError


def shift(states):
    """Returns states [batch, length, dim] moved one position later, zeros first: [batch, length, dim]."""
    return ops.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
