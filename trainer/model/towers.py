"""The towers, built from their schemas; both end in a vector of unit length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from retrieval.bundle.features.event_kinds import HistoryNumeric, HistoryTimes
from retrieval.bundle.features.kinds import History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.text import Text
from retrieval.bundle.features.vocabulary import FIRST_VALUE, PADDING
from trainer.features.schemas import ITEMS, Schemas
from trainer.model import event_features
from trainer.model.event_features import EventValues
from trainer.model.feature_dropout import PresenceDropout, SlotDropout, TextDropout, ValueDropout
from trainer.model.history import encoders
from trainer.model.history.encoders import HistoryEncoder, SlotMask
from trainer.model.slot_embedding import SlotEmbedding
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import ITEM_ID, Recipe, Tower

_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class MaskedMean(keras.layers.Layer):
    """The mean of the embeddings of a list, padding left out; zero for an empty list."""

    def call(self, embeddings, slots):
        """Returns [batch, dim] float32 of embeddings [batch, n, dim] and slots [batch, n]."""
        mask = ops.expand_dims(ops.cast(ops.not_equal(slots, PADDING), embeddings.dtype), -1)  # [batch, n, 1]
        return ops.sum(embeddings * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


@_register
class EncodedHistory(keras.layers.Layer):
    """Slots of a history to a vector: hidden in training, looked up, joined by what is known of its events, encoded.

    Args:
        table: item embeddings, shared with whoever else holds them.
        encoder: as of `trainer.model.history.encoders`.
        rate: share of the items to hide in training.
        values: of the events; None where nothing is known of them but the item.
    """

    def __init__(
        self,
        table: keras.layers.Layer,
        encoder: HistoryEncoder,
        rate: float,
        values: EventValues | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, autocast=False)  # the parts cast as each of them has to
        self.table, self.encoder, self.rate, self.values = table, encoder, rate, values
        self.hide, self.mask = SlotDropout(rate, name="hide"), SlotMask(name="mask")

    def build(self, slots_shape: Any, values_shape: Any = None, embeddings_shape: Any = None) -> None:
        """Makes what the parts need."""
        if not self.table.built:
            self.table.build(slots_shape)
        if not self.encoder.built:
            self.encoder.build((*slots_shape, self.table.output_dim))
        if self.values is not None and not self.values.built:
            self.values.build(values_shape)
        self.built = True

    def call(self, slots, values=None, embeddings=None, training=False):
        """Returns [batch, dim] float32.

        Args:
            slots: [batch, max_values] int32, newest first.
            values: inputs of `EventValues` by name, each [batch, max_values, ...]. None: nothing is known.
            embeddings: [batch, max_values, dim] float32 in place of those of the table.
            training: whether dropout is on.
        """
        slots = self.hide(slots, training=training)
        shown = self._shown(slots, values, embeddings, training)
        return self.encoder(shown, self.mask(slots), slots, training=training)

    def prefixes(self, slots, values=None, embeddings=None, training=False):
        """Returns [batch, length, dim] float32; see `trainer.model.history.encoders`.

        Ages differ from prefix to prefix: see `call`.

        Args:
            slots: [batch, length] int32, oldest first.
            values: inputs of `EventValues` by name, each [batch, length, ...]. None: nothing is known.
            embeddings: [batch, length, dim] float32 in place of those of the table.
            training: whether dropout is on.
        """
        slots = self.hide(slots, training=training)
        shown = self._shown(slots, values, embeddings, training)
        return self.encoder.prefixes(shown, self.mask(slots), training=training)

    def _shown(self, slots, values, embeddings, training):
        """Returns the embeddings of the events."""
        shown = self.table(slots) if embeddings is None else embeddings
        if self.values is None or not values:
            return shown
        return self.values.apply_to(shown, self.values.hide(values, training))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("table", "encoder", "values")
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}
        return {**super().get_config(), **parts, "rate": self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EncodedHistory:
        """Returns the layer of its arguments."""
        config.pop("heads", None)  # None in towers that earlier versions saved
        given = {name: config.pop(name, None) for name in ("table", "encoder", "values")}
        parts = {name: part and keras.saving.deserialize_keras_object(part) for name, part in given.items()}
        return cls(**parts, **config)


@dataclass(frozen=True, eq=False)
class QueryTower:
    """The query tower and its parts, which training calls on whole sequences.

    Attributes:
        model: inputs by feature name, output [batch, dimension] float32, unit length.
        histories: by feature name.
        join: inputs by feature name, histories encoded ([batch, dimension]) and the others as in `model`; same
            output.
    """

    model: keras.Model
    histories: dict[str, EncodedHistory]
    join: keras.Model


@dataclass(frozen=True, eq=False)
class ItemTower:
    """The item tower, and what training needs of it beside its vectors.

    Attributes:
        model: inputs by feature name, output [batch, dimension] float32, unit length.
        both: the same inputs; outputs are the embedding before its length is made 1, and the vector as of `model`.
    """

    model: keras.Model
    both: keras.Model


def build(recipe: Recipe, schemas: Schemas, precision: str = "float32") -> tuple[QueryTower, ItemTower]:
    """Returns query tower and item tower.

    Args:
        recipe: both towers.
        schemas: what they read.
        precision: in which they compute, see `trainer.recipe.recipe.Training`; weights and output are float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _build(recipe, schemas)
    finally:
        keras.config.set_dtype_policy(before)


def _build(recipe: Recipe, schemas: Schemas) -> tuple[QueryTower, ItemTower]:
    vocabularies = {**schemas.query.vocabularies, **schemas.item.vocabularies}
    slot_count = vocabularies[ITEMS].slot_count if ITEMS in vocabularies else FIRST_VALUE
    table = _embedding(slot_count, recipe.training.dimension, recipe.training.initial_norm, ITEMS)
    return _query_tower(recipe, schemas.query, table), _item_tower(recipe, schemas.item, table)


def _embedding(slot_count: int, dimension: int, norm: float, name: str) -> SlotEmbedding:
    """Returns a table whose rows have about length `norm` at the start."""
    return SlotEmbedding(
        slot_count,
        dimension,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=norm * dimension**-0.5),
        name=name,
    )


def _query_tower(recipe: Recipe, schema: FeatureSchema, table: SlotEmbedding) -> QueryTower:
    dimension = recipe.training.dimension
    inputs, joined, histories = {}, {}, {}
    encoded, direct = [], []
    # What is known of the events of histories follows the features of the recipe.
    for feature, given in zip(schema.features, recipe.query_tower.features, strict=False):
        if isinstance(feature, History) and isinstance(given, HistoryInput):
            name = f"query_tower_{feature.name}"
            items = table
            if given.items != "tied":
                slot_count = schema.slots(feature).slot_count
                items = _embedding(slot_count, dimension, recipe.training.initial_norm, f"{name}_items")
                items.trainable = (
                    given.items == "own"
                )  # else `trainer.model.two_tower.TwoTower.fill_tables` writes them
            specs = event_features.specs_of(given, schema)
            layer = EncodedHistory(
                items,
                encoders.encoder(given, f"{name}_encoder"),
                given.dropout,
                EventValues(specs, dimension, given.event_feature_dropout, name=f"{name}_values") if specs else None,
                name=name,
            )
            histories[feature.name] = layer
            tensor = joined[feature.name] = keras.Input((dimension,), name=feature.name)
            encoded.append(tensor)
            direct.append(tensor)
        else:
            tensor = joined[feature.name] = _input(feature)
            encoded.append(_encoded("query_tower", feature, given, schema, recipe, tensor))
            if isinstance(feature, Text):
                direct.append(_projected("query_tower", feature, recipe, encoded[-1]))
    raw = _output(recipe.query_tower, dimension, encoded, direct, _reads_text(schema))
    join = keras.Model(joined, _unit(raw), name="query_join")
    inputs = {feature.name: _input(feature) for feature in schema.inputs}
    passed = {name: inputs[name] for name in joined}
    for name, layer in histories.items():
        values = {value.name: inputs[value.name] for value in schema.event_values(name)}
        passed[name] = layer(inputs[name], values=values) if values else layer(inputs[name])
    return QueryTower(keras.Model(inputs, join(passed), name="query_tower"), histories, join)


def _item_tower(recipe: Recipe, schema: FeatureSchema, table: SlotEmbedding) -> ItemTower:
    inputs = {feature.name: _input(feature) for feature in schema.features}
    encoded, direct = [], []
    for feature, given in zip(schema.features, recipe.item_tower.features, strict=True):
        if feature.name == ITEM_ID:
            ids = SlotDropout(given.dropout, name="item_tower_item_id_dropout")(inputs[feature.name])
            encoded.append(table(ids))
            direct.append(encoded[-1])
        else:
            encoded.append(_encoded("item_tower", feature, given, schema, recipe, inputs[feature.name]))
            if isinstance(feature, Text):
                direct.append(_projected("item_tower", feature, recipe, encoded[-1]))
    raw = _output(recipe.item_tower, recipe.training.dimension, encoded, direct, _reads_text(schema))
    vectors = _unit(raw)
    model = keras.Model(inputs, vectors, name="item_tower")
    return ItemTower(model, keras.Model(inputs, [raw, vectors], name="item_tower_both"))


def _input(feature: Any) -> Any:
    of_floats = isinstance(feature, Numeric | Text | HistoryNumeric | HistoryTimes)
    dtype = "float32" if of_floats else "int32"
    return keras.Input(feature.input_shape, dtype=dtype, name=feature.name)


def _encoded(side: str, feature: Any, given: Any, schema: FeatureSchema, recipe: Recipe, tensor: keras.KerasTensor):
    """Returns [batch, width]: what a feature that is no history or item id is to its tower."""
    name = f"{side}_{feature.name}"
    if isinstance(feature, Numeric):
        return PresenceDropout(given.dropout, name=f"{name}_dropout")(tensor)
    if isinstance(feature, Text):
        return TextDropout(given.dropout, name=f"{name}_dropout")(tensor)
    slots = ValueDropout(given.dropout, name=f"{name}_dropout")(tensor)
    slot_count = schema.slots(feature).slot_count
    embeddings = _embedding(slot_count, given.embedding_dim, recipe.training.initial_norm, name)(slots)
    if isinstance(feature, MultiCategorical):
        return MaskedMean(name=f"{name}_mean")(embeddings, slots)
    return embeddings


def _projected(side: str, feature: Text, recipe: Recipe, vectors):
    """Returns [batch, dimension]: a text in the space of the towers.

    The projection starts as the same one in both towers, and keeps angles: texts that are alike are near from the
    first step.
    """
    dimension, gain = recipe.training.dimension, recipe.training.initial_norm
    kernel = keras.initializers.Orthogonal(gain, seed=0)
    if feature.width == dimension:
        kernel = keras.initializers.Identity(gain)
    layer = keras.layers.Dense(
        dimension, use_bias=False, kernel_initializer=kernel, name=f"{side}_{feature.name}_projection"
    )
    return layer(vectors)


def _output(spec: Tower, dimension: int, encoded: list, direct: list, texts: bool):
    """Returns ``direct + mlp(all)``.

    The items' own embeddings and texts pass by the hidden layers, which correct them. With texts the correction starts
    at zero: a trained language model is a better start than noise.
    """
    hidden = keras.layers.Concatenate()(encoded) if len(encoded) > 1 else encoded[0]
    for units in spec.hidden_units:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
        hidden = keras.layers.Dropout(spec.dropout)(hidden)
    kernel = "zeros" if texts else "glorot_uniform"
    output = keras.layers.Dense(dimension, kernel_initializer=kernel)(hidden)
    if direct:
        output = keras.layers.Add()([output, *direct])
    return output


def _reads_text(schema: FeatureSchema) -> bool:
    return any(isinstance(feature, Text) for feature in schema.features)


def _unit(raw):
    return keras.layers.UnitNormalization(name="embedding", dtype="float32")(raw)
