"""The feature schema of each tower, learned from training data alone."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.features import Categorical, Feature, FeatureSchema, History, MultiCategorical, Numeric
from bundle.texts import Text, TextEncoder
from bundle.vocabulary import Vocabulary
from trainer import event_schema
from trainer.column_statistics import Column, blocks_of, mean_and_std, vocabulary_of, whole
from trainer.data import Dataset
from trainer.events import Events
from trainer.progress import SILENT, Progress
from trainer.recipe import (
    ITEM_ID,
    USER_ID,
    CategoricalInput,
    HistoryInput,
    Input,
    MultiCategoricalInput,
    NumericInput,
    Recipe,
    Tower,
    query_attributes,
)
from trainer.text.spec import TextInput

ITEMS = "items"
"""Name of the vocabulary that histories and ``item_id`` share."""


@dataclass(frozen=True)
class Schemas:
    """What both towers read."""

    query: FeatureSchema
    item: FeatureSchema

    @property
    def text_encoders(self) -> dict[str, Any]:
        """The text encoders of both, by name: `trainer.text.encoders.KerasText`."""
        return {**self.query.encoders, **self.item.encoders}


def build(recipe: Recipe, dataset: Dataset, train: Events, progress: Progress = SILENT) -> Schemas:
    """Returns the schemas; vocabularies and statistics come from `train`, so that nothing of later events leaks in.

    Args:
        recipe: features of both towers.
        dataset: users and items.
        train: events to learn from.
        progress: what the text encoders report to, now and later.
    """
    user_rows = np.diff(train.starts(len(dataset.user_ids)))
    item_rows = train.item_counts(len(dataset.items.ids))
    item_values = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in recipe.item_tower.features
    }
    item_id = next((f for f in recipe.item_tower.features if f.name == ITEM_ID), None)
    min_count = item_id.min_count if isinstance(item_id, CategoricalInput) else 1
    items = vocabulary_of([(dataset.items.ids, item_rows)], min_count)
    item_types = {} if recipe.items is None else {n: a.type for n, a in recipe.items.attributes.items()}
    profiles = {name: whole(values, user_rows) for name, values in query_columns(recipe, dataset).items()}
    contexts = {name: blocks_of(train, name) for name in event_names(recipe, train)}
    query_types = {name: attribute.type for name, attribute in query_attributes(recipe).items()}
    asked = {**profiles, **contexts}
    catalogue = {name: whole(values, item_rows) for name, values in item_values.items()}
    encoders = _text_encoders(recipe, progress, asked, catalogue)
    query = _schema("query", recipe.query_tower, asked, query_types, items, encoders)
    query = event_schema.extend(query, recipe, train)
    return Schemas(query, _schema("item", recipe.item_tower, catalogue, item_types, items, encoders))


def _text_encoders(recipe: Recipe, progress: Progress, *sides: Mapping[str, Column]) -> dict[Any, TextEncoder]:
    """Returns the text encoder of each text feature; `sides` are the columns of query tower and item tower."""
    towers = zip((recipe.query_tower, recipe.item_tower), sides, strict=True)
    columns = [
        (f, [value for values, _ in columns.get(f.name, tuple)() for value in values])
        for tower, columns in towers
        for f in tower.features
        if isinstance(f, TextInput)
    ]
    if not columns:
        return {}
    # Here, because recipes without text need no checkpoint, nor wait for what reads one.
    from trainer.text.building import build

    return dict(build(columns, recipe.checkpoints, progress))


def query_columns(recipe: Recipe, dataset: Dataset) -> dict[str, Sequence[Any]]:
    """Returns the raw values of the query features that are of the user, but histories: each [user_count]."""
    columns = {USER_ID: dataset.user_ids, **dataset.user_columns}
    names = (f.name for f in recipe.query_tower.features if not isinstance(f, HistoryInput))
    return {name: columns[name] for name in names if name in columns}


def event_names(recipe: Recipe, events: Events) -> list[str]:
    """Returns the attributes of the events that are query features of the request, and not of the user."""
    of_users: Container[str] = {USER_ID} if recipe.users is None else {USER_ID, *recipe.users.attributes}
    asked = {feature.name for feature in recipe.query_tower.features}
    return [name for name in events.attributes if name in asked and name not in of_users]


def _schema(
    side: str,
    tower: Tower,
    columns: Mapping[str, Column],
    types: Mapping[str, str],
    items: Vocabulary,
    encoders: Mapping[Any, TextEncoder],
) -> FeatureSchema:
    """Returns the schema of a tower, `columns` by feature."""
    features: list[Feature] = []
    vocabularies: dict[str, Vocabulary] = {}
    texts: dict[str, TextEncoder] = {}
    for spec in tower.features:
        if isinstance(spec, TextInput):
            encoder = encoders[spec]
            texts[encoder.spec.name] = encoder
            features.append(Text(spec.name, encoder.spec.name, encoder.spec.width, description=spec.description))
            continue
        feature, vocabulary = _feature(side, spec, columns.get(spec.name, tuple), types)
        features.append(feature)
        if feature.vocabulary:
            vocabularies[feature.vocabulary] = items if vocabulary is None else vocabulary
    return FeatureSchema(tuple(features), vocabularies, texts)


def _feature(side: str, spec: Input, column: Column, types: Mapping[str, str]) -> tuple[Feature, Vocabulary | None]:
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
