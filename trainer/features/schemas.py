"""Learns the feature schema of each tower from the training events, so that nothing of held-out events leaks in."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import Columns, Feature, FeatureSchema, encode_inputs
from retrieval.bundle.features.text import Text, TextEncoder, TextEncoders, TextEncoderSpec
from retrieval.bundle.features.vocabulary import Vocabulary
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features import event_schema
from trainer.features.statistics import Column, blocks_of, mean_and_std, vocabulary_of, whole
from trainer.recipe.feature_inputs import (
    CategoricalInput,
    HistoryInput,
    Input,
    MultiCategoricalInput,
    NumericInput,
    TextInput,
)
from trainer.recipe.recipe import ITEM_ID, USER_ID, Recipe, Tower, query_attributes

ITEMS = "items"
"""Name of the item vocabulary, which histories and ``item_id`` share."""

TextColumn = tuple[TextInput, list[str | None]]
"""A text feature of a recipe, and its texts in the training data."""


@dataclass(frozen=True)
class Schemas:
    """Feature schemas of both towers, with their text encoders.

    Attributes:
        query: Features of the query tower.
        item: Features of the item tower.
        text_encoders: Text encoders of both towers; the schemas hold their specifications only.
    """

    query: FeatureSchema
    item: FeatureSchema
    text_encoders: TextEncoders = field(default_factory=TextEncoders)

    def encode_queries(self, columns: Columns, row_count: int) -> dict[str, np.ndarray]:
        """Returns the inputs of the query tower, as `retrieval.bundle.features.schema.encode_inputs` does."""
        return encode_inputs(self.query, self.text_encoders, columns, row_count)

    def encode_items(self, columns: Columns, row_count: int) -> dict[str, np.ndarray]:
        """Returns the inputs of the item tower, as `retrieval.bundle.features.schema.encode_inputs` does."""
        return encode_inputs(self.item, self.text_encoders, columns, row_count)


def learn_schemas(
    recipe: Recipe, dataset: Dataset, train: Events, text_encoders: Mapping[TextInput, TextEncoder] | None = None
) -> Schemas:
    """Returns the schemas of both towers, with vocabularies, means and standard deviations of the training events.

    Args:
        recipe: Recipe that names the features of both towers.
        dataset: Users and items.
        train: Training events.
        text_encoders: Text encoder of each text feature, as `trainer.text.building.build` makes them. Default: none,
            for recipes without text features.
    """
    text_encoders = text_encoders or {}
    specs = {feature: encoder.spec for feature, encoder in text_encoders.items()}
    items = _item_vocabulary(recipe, dataset, train)
    item_types = {} if recipe.items is None else {n: a.type for n, a in recipe.items.attributes.items()}
    query_types = {name: attribute.type for name, attribute in query_attributes(recipe).items()}
    query = _schema("query", recipe.query_tower, _query_values(recipe, dataset, train), query_types, items, specs)
    query = event_schema.extend(query, recipe, train)
    item = _schema("item", recipe.item_tower, _item_values(recipe, dataset, train), item_types, items, specs)
    return Schemas(query, item, TextEncoders(tuple({e.spec.name: e for e in text_encoders.values()}.values())))


def text_columns(recipe: Recipe, dataset: Dataset, train: Events) -> list[TextColumn]:
    """Returns the text features of both towers with their texts in the training data, which encoders are built from."""
    sides = (
        (recipe.query_tower, _query_values(recipe, dataset, train)),
        (recipe.item_tower, _item_values(recipe, dataset, train)),
    )
    return [
        (feature, [value for values, _ in columns.get(feature.name, tuple)() for value in values])
        for tower, columns in sides
        for feature in tower.features
        if isinstance(feature, TextInput)
    ]


def _item_vocabulary(recipe: Recipe, dataset: Dataset, train: Events) -> Vocabulary:
    """Returns the ids of the items with enough training events."""
    item_id = next((f for f in recipe.item_tower.features if f.name == ITEM_ID), None)
    min_count = item_id.min_count if isinstance(item_id, CategoricalInput) else 1
    return vocabulary_of([(dataset.items.ids, train.item_counts(len(dataset.items.ids)))], min_count)


def _query_values(recipe: Recipe, dataset: Dataset, train: Events) -> dict[str, Column]:
    """Returns the raw values of the query features by name, those of users and those of requests."""
    user_rows = np.diff(train.starts(len(dataset.user_ids)))
    profiles = {name: whole(values, user_rows) for name, values in query_columns(recipe, dataset).items()}
    return {**profiles, **{name: blocks_of(train, name) for name in event_names(recipe, train)}}


def _item_values(recipe: Recipe, dataset: Dataset, train: Events) -> dict[str, Column]:
    """Returns the raw values of the item features by name."""
    item_rows = train.item_counts(len(dataset.items.ids))
    return {
        feature.name: whole(
            list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name), item_rows
        )
        for feature in recipe.item_tower.features
    }


def query_columns(recipe: Recipe, dataset: Dataset) -> dict[str, Sequence[Any]]:
    """Returns the raw values of the query features that describe users (no histories) by name, each [user_count]."""
    columns = {USER_ID: dataset.user_ids, **dataset.user_columns}
    names = (f.name for f in recipe.query_tower.features if not isinstance(f, HistoryInput))
    return {name: columns[name] for name in names if name in columns}


def event_names(recipe: Recipe, events: Events) -> list[str]:
    """Returns the names of the query features that are attributes of the events, not of the users.

    Such a feature describes the request. Training takes each target event for a request, so the value of the feature is
    the one of the target event.
    """
    of_users: Container[str] = {USER_ID} if recipe.users is None else {USER_ID, *recipe.users.attributes}
    features = {feature.name for feature in recipe.query_tower.features}
    return [name for name in events.attributes if name in features and name not in of_users]


def _schema(
    side: str,
    tower: Tower,
    columns: Mapping[str, Column],
    types: Mapping[str, str],
    items: Vocabulary,
    specs: Mapping[TextInput, TextEncoderSpec],
) -> FeatureSchema:
    """Returns the schema of a tower.

    Args:
        side: ``query`` or ``item``, for names of vocabularies and for messages.
        tower: Part of the recipe.
        columns: Raw values by feature name.
        types: Type of the attribute by feature name.
        items: Item vocabulary.
        specs: Specification of the text encoder of each text feature.
    """
    features: list[Feature] = []
    vocabularies: dict[str, Vocabulary] = {}
    used: dict[str, TextEncoderSpec] = {}
    for spec in tower.features:
        if isinstance(spec, TextInput):
            if spec not in specs:
                raise ValueError(f"{side}: text feature {spec.name} has no text encoder; build it before the schema")
            encoder = used[specs[spec].name] = specs[spec]
            features.append(Text(spec.name, encoder.name, encoder.width, description=spec.description))
            continue
        feature, vocabulary = _feature(side, spec, columns.get(spec.name, tuple), types)
        features.append(feature)
        if feature.vocabulary:
            vocabularies[feature.vocabulary] = items if vocabulary is None else vocabulary
    return FeatureSchema(tuple(features), vocabularies, used)


def _feature(side: str, spec: Input, column: Column, types: Mapping[str, str]) -> tuple[Feature, Vocabulary | None]:
    """Returns a feature of the schema, and its vocabulary: None if it has no vocabulary or uses the item vocabulary."""
    if isinstance(spec, HistoryInput):
        return History(spec.name, spec.max_values, vocabulary=ITEMS, description=spec.description), None
    if isinstance(spec, NumericInput):
        mean, std = mean_and_std(column, f"{side}: feature {spec.name}")
        return Numeric(spec.name, mean, std if std > 1e-9 else 1.0, description=spec.description), None
    value_type = "int" if types.get(spec.name) == "int" else "string"
    vocabulary = None
    if spec.name == ITEM_ID:
        source: dict[str, Any] = {"vocabulary": ITEMS}
    elif spec.hash_buckets:
        source = {"hash_buckets": spec.hash_buckets}
    else:
        source = {"vocabulary": f"{side}/{spec.name}"}
        vocabulary = vocabulary_of(column(), spec.min_count)
    if isinstance(spec, MultiCategoricalInput):
        return MultiCategorical(
            spec.name, spec.max_values, value_type=value_type, description=spec.description, **source
        ), vocabulary
    return Categorical(spec.name, value_type=value_type, description=spec.description, **source), vocabulary
