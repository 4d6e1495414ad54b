"""The feature schema of each tower, learned from training data alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.features import Categorical, Feature, FeatureSchema, History, MultiCategorical, Numeric
from bundle.texts import Text, TextEncoder
from bundle.vocabulary import Vocabulary
from trainer.data import Dataset, Events
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
)
from trainer.recipes import query_attributes
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


def build(recipe: Recipe, dataset: Dataset, train: Events) -> Schemas:
    """Returns the schemas; vocabularies and statistics come from `train`, so that nothing of later events leaks in."""
    user_rows = np.bincount(train.users, minlength=len(dataset.user_ids))
    item_rows = train.item_counts(len(dataset.items.ids))
    item_values = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in recipe.item_tower.features
    }
    item_id = next((f for f in recipe.item_tower.features if f.name == ITEM_ID), None)
    min_count = item_id.min_count if isinstance(item_id, CategoricalInput) else 1
    items = _vocabulary(dataset.items.ids, item_rows, min_count)
    item_types = {} if recipe.items is None else {n: a.type for n, a in recipe.items.attributes.items()}
    profiles = {name: (values, user_rows) for name, values in query_columns(recipe, dataset).items()}
    once = np.ones(len(train), dtype=np.int64)
    contexts = {name: (values, once) for name, values in event_columns(recipe, train).items()}
    query_types = {name: attribute.type for name, attribute in query_attributes(recipe).items()}
    asked = {**profiles, **contexts}
    catalogue = {name: (values, item_rows) for name, values in item_values.items()}
    encoders = _text_encoders(recipe, asked, catalogue)
    query = _schema("query", recipe.query_tower, asked, query_types, items, encoders)
    return Schemas(query, _schema("item", recipe.item_tower, catalogue, item_types, items, encoders))


def _text_encoders(recipe: Recipe, *sides: Mapping[str, tuple[Sequence[Any], np.ndarray]]) -> dict[Any, TextEncoder]:
    """Returns the text encoder of each text feature; `sides` are the columns of query tower and item tower."""
    towers = zip((recipe.query_tower, recipe.item_tower), sides, strict=True)
    columns = [
        (f, columns.get(f.name, ((), None))[0])
        for tower, columns in towers
        for f in tower.features
        if isinstance(f, TextInput)
    ]
    if not columns:
        return {}
    # Here, because recipes without text need no checkpoint, nor wait for what reads one.
    from trainer.text.building import build

    return dict(build(columns, recipe.checkpoints))


def query_columns(recipe: Recipe, dataset: Dataset) -> dict[str, Sequence[Any]]:
    """Returns the raw values of the query features that are of the user, but histories: each [user_count]."""
    columns = {USER_ID: dataset.user_ids, **dataset.user_columns}
    names = (f.name for f in recipe.query_tower.features if not isinstance(f, HistoryInput))
    return {name: columns[name] for name in names if name in columns}


def event_columns(recipe: Recipe, events: Events) -> dict[str, Sequence[Any]]:
    """Returns the raw values of the query features that are of the request and not of the user: each [len(events)]."""
    of_users = {USER_ID} if recipe.users is None else {USER_ID, *recipe.users.attributes}
    names = {feature.name for feature in recipe.query_tower.features} - of_users
    return {name: values.tolist() for name, values in events.attributes.items() if name in names}


def _schema(
    side: str,
    tower: Tower,
    columns: Mapping[str, tuple[Sequence[Any], np.ndarray]],
    types: Mapping[str, str],
    items: Vocabulary,
    encoders: Mapping[Any, TextEncoder],
) -> FeatureSchema:
    """Returns the schema of a tower: `columns` are raw values by feature, and how many training events each has."""
    features: list[Feature] = []
    vocabularies: dict[str, Vocabulary] = {}
    texts: dict[str, TextEncoder] = {}
    for spec in tower.features:
        if isinstance(spec, TextInput):
            encoder = encoders[spec]
            texts[encoder.spec.name] = encoder
            features.append(Text(spec.name, encoder.spec.name, encoder.spec.width, description=spec.description))
            continue
        column, row_counts = columns.get(spec.name, ((), np.zeros(0)))
        feature, vocabulary = _feature(side, spec, column, row_counts, types)
        features.append(feature)
        if feature.vocabulary:
            vocabularies[feature.vocabulary] = items if vocabulary is None else vocabulary
    return FeatureSchema(tuple(features), vocabularies, texts)


def _feature(
    side: str, spec: Input, column: Sequence[Any], row_counts: np.ndarray, types: Mapping[str, str]
) -> tuple[Feature, Vocabulary | None]:
    if isinstance(spec, HistoryInput):
        return History(spec.name, spec.max_values, vocabulary=ITEMS, description=spec.description), None
    if isinstance(spec, NumericInput):
        # Weighted by training events, as the tower meets the values.
        pairs = [(v, c) for v, c in zip(column, row_counts.tolist(), strict=True) if v is not None and c]
        values, counts = np.array(pairs or [(0.0, 1)], dtype=np.float64).T
        mean = float(np.average(values, weights=counts))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        return Numeric(spec.name, mean, std if std > 1e-9 else 1.0, description=spec.description), None
    value_type = "int" if types.get(spec.name) == "int" else "string"
    vocabulary = None
    if spec.name == ITEM_ID:
        source: dict[str, Any] = {"vocabulary": ITEMS}
    elif spec.hash_buckets:
        source = {"hash_buckets": spec.hash_buckets}
    else:
        source = {"vocabulary": f"{side}/{spec.name}"}
        vocabulary = _vocabulary(column, row_counts, spec.min_count)
    if isinstance(spec, MultiCategoricalInput):
        return MultiCategorical(
            spec.name, spec.max_values, value_type=value_type, description=spec.description, **source
        ), vocabulary
    return Categorical(spec.name, value_type=value_type, description=spec.description, **source), vocabulary


def _vocabulary(column: Sequence[Any], row_counts: np.ndarray, min_count: int) -> Vocabulary:
    """Returns the values with at least `min_count` training events, sorted; list values count each."""
    counts: Counter[Any] = Counter()
    for value, count in zip(column, row_counts.tolist(), strict=True):
        if count and value is not None:
            for single in value if isinstance(value, list | tuple) else (value,):
                counts[single] += count
    return Vocabulary(tuple(sorted(value for value, count in counts.items() if count >= min_count)))


def history_columns(
    schema: FeatureSchema, dataset: Dataset, known: Events, users: np.ndarray
) -> dict[str, list[list[str]]]:
    """Returns the raw histories of `users` [n] as a caller would send them: what is in `known`, oldest first."""
    starts = known.starts(len(dataset.user_ids))
    ids = dataset.items.ids
    columns: dict[str, list[list[str]]] = {}
    for feature in schema.features:
        if isinstance(feature, History):
            bounds = [(max(starts[u], starts[u + 1] - feature.max_values), starts[u + 1]) for u in users]
            columns[feature.name] = [[ids[item] for item in known.items[start:end]] for start, end in bounds]
    return columns
