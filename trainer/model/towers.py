"""Builds query tower and item tower from their feature schemas; both return vectors of unit length."""

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
from trainer.model.history.build import build_encoder
from trainer.model.history.encoded_history import EncodedHistory
from trainer.model.slot_embedding import SlotEmbedding
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import ITEM_ID, Recipe, Tower

_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class MaskedMean(keras.layers.Layer):
    """Mean of the embeddings of a list of values, without padding; the zero vector for an empty list."""

    def call(self, embeddings, slots):
        """Returns the mean embedding of each list: [batch, dim] float32.

        Args:
            embeddings: [batch, n, dim], embedding of each value.
            slots: [batch, n] int32, slot (embedding index) of each value, which shows the padding.
        """
        mask = ops.expand_dims(ops.cast(ops.not_equal(slots, PADDING), embeddings.dtype), -1)  # [batch, n, 1]
        return ops.sum(embeddings * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


@dataclass(frozen=True, eq=False)
class QueryTower:
    """Query tower, and the parts of it that training calls on whole event sequences.

    Attributes:
        model: Keras model with inputs by feature name and output [batch, dimension] float32, unit length.
        histories: Layer that encodes each history, by feature name.
        join: Keras model with the output of `model`, which takes each history already encoded, as
            [batch, dimension] float32, and the other inputs as `model` takes them.
    """

    model: keras.Model
    histories: dict[str, EncodedHistory]
    join: keras.Model


@dataclass(frozen=True, eq=False)
class ItemTower:
    """Item tower, and a variant that also returns the embedding before normalisation, which training needs.

    Attributes:
        model: Keras model with inputs by feature name and output [batch, dimension] float32, unit length.
        both: Keras model with the inputs of `model` and two outputs: the embedding before normalisation,
            [batch, dimension], and the output of `model`.
    """

    model: keras.Model
    both: keras.Model


def build(recipe: Recipe, schemas: Schemas, precision: str = "float32") -> tuple[QueryTower, ItemTower]:
    """Returns a new query tower and a new item tower, not yet trained.

    Args:
        recipe: Recipe that describes both towers.
        schemas: Feature schemas of both towers.
        precision: Precision of the layers, see `trainer.recipe.training.Training`; weights and output are float32.
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
    """Returns an embedding table [slot_count, dimension] whose rows have a length of about `norm` at initialisation."""
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
    # The schema has event features after the features of the recipe.
    for feature, given in zip(schema.features, recipe.query_tower.features, strict=False):
        if isinstance(feature, History) and isinstance(given, HistoryInput):
            name = f"query_tower_{feature.name}"
            items = table
            if given.items != "tied":
                slot_count = schema.slots(feature).slot_count
                items = _embedding(slot_count, dimension, recipe.training.initial_norm, f"{name}_items")
                # With "tower", `trainer.model.two_tower.TwoTower.fill_tables` writes the table.
                items.trainable = given.items == "own"
            specs = event_features.specs_of(given, schema)
            layer = EncodedHistory(
                items,
                build_encoder(given, f"{name}_encoder"),
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
    """Returns the encoded values of a feature that is neither a history nor the item id: [batch, width].

    Args:
        side: Name of the tower, the prefix of layer names.
        feature: Feature of the schema.
        given: The same feature in the recipe.
        schema: Feature schema of the tower.
        recipe: Recipe that describes the tower.
        tensor: Input of the tower for the feature.
    """
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
    """Returns text vectors projected into the embedding space of the towers: [batch, dimension].

    Both towers start with the same projection, which keeps angles, so that similar texts have similar embeddings from
    the first step.
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
    """Returns the sum of the tensors `direct` and of an MLP over the tensors `encoded`: [batch, dimension].

    The embeddings of items and texts skip the hidden layers, which only correct them. With texts the correction is
    initially zero, as the vectors of a trained language model are a better start than noise.

    Args:
        spec: Tower of the recipe, with the sizes and the dropout of the hidden layers.
        dimension: Dimension of the embeddings.
        encoded: Encoded features, each [batch, width].
        direct: Tensors that skip the hidden layers, each [batch, dimension].
        texts: Whether the tower reads a text.
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
