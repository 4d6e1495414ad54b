"""Layer of the query tower for a history: feature dropout, embedding, event features and encoder."""

from __future__ import annotations

from typing import Any

import keras

from trainer.model.event_features import EventValues
from trainer.model.feature_dropout import SlotDropout
from trainer.model.history.encoder import HistoryEncoder, SlotMask


@keras.saving.register_keras_serializable(package="two_tower")
class EncodedHistory(keras.layers.Layer):
    """Encodes a history, given as slots (embedding indices of its items), as one vector.

    Args:
        table: Embedding table of the items; may be shared with other layers.
        encoder: Encoder of the embedded history.
        rate: Share of the items that are dropped from a history in training, 0 to 1.
        values: Layer for the event features of the history; None if it has none.
    """

    def __init__(
        self,
        table: keras.layers.Layer,
        encoder: HistoryEncoder,
        rate: float,
        values: EventValues | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, autocast=False)  # each part casts by itself
        self.table, self.encoder, self.rate, self.values = table, encoder, rate, values
        # The names of these attributes are in the files of saved towers.
        self.hide, self.mask = SlotDropout(rate, name="hide"), SlotMask(name="mask")

    def build(self, slots_shape: Any, values_shape: Any = None, embeddings_shape: Any = None) -> None:
        """Creates the weights of table, encoder and event features, as far as they have none."""
        if not self.table.built:
            self.table.build(slots_shape)
        if not self.encoder.built:
            self.encoder.build((*slots_shape, self.table.output_dim))
        if self.values is not None and not self.values.built:
            self.values.build(values_shape)
        self.built = True

    def call(self, slots, values=None, embeddings=None, training=False):
        """Returns the encoded histories: [batch, dim] float32.

        Args:
            slots: [batch, max_values] int32, slots of the items, newest first.
            values: Inputs of `EventValues` by name, each [batch, max_values, ...]. Default: no event features.
            embeddings: [batch, max_values, dim] float32, embeddings of the items. Default: those of the table.
            training: Whether dropout is on.
        """
        slots = self.hide(slots, training=training)
        events = self._embed(slots, values, embeddings, training)
        return self.encoder(events, self.mask(slots), slots, training=training)

    def prefixes(self, slots, values=None, embeddings=None, training=False):
        """Returns the encoded prefixes of event sequences: [batch, length, dim] float32.

        Position t encodes the events before event t, see `HistoryEncoder.prefixes`. The method does not support ages of
        events, which differ from prefix to prefix; use `call` for histories with ages.

        Args:
            slots: [batch, length] int32, slots of the items, oldest first.
            values: Inputs of `EventValues` by name, each [batch, length, ...]. Default: no event features.
            embeddings: [batch, length, dim] float32, embeddings of the items. Default: those of the table.
            training: Whether dropout is on.
        """
        slots = self.hide(slots, training=training)
        events = self._embed(slots, values, embeddings, training)
        return self.encoder.prefixes(events, self.mask(slots), training=training)

    def _embed(self, slots, values, embeddings, training):
        """Returns the embeddings of the events, items and event features combined: [batch, length, dim]."""
        items = self.table(slots) if embeddings is None else embeddings
        if self.values is None or not values:
            return items
        return self.values.apply_to(items, self.values.drop(values, training))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of the layer by name, with its parts serialized."""
        names = ("table", "encoder", "values")
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}
        return {**super().get_config(), **parts, "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EncodedHistory:
        """Returns a new layer with the arguments that `get_config` returned."""
        config.pop("heads", None)  # is None in towers of earlier versions
        given = {name: config.pop(name, None) for name in ("table", "encoder", "values")}
        parts = {name: part and keras.saving.deserialize_keras_object(part) for name, part in given.items()}
        return cls(**parts, **config)
