"""Histories and the features of their events: learned from training data, and as raw columns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from retrieval.bundle.features.event_kinds import (
    REQUEST_TIME,
    TIME,
    EventValue,
    HistoryCategorical,
    HistoryNumeric,
    HistoryTimes,
    RequestTime,
    value_name,
)
from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import Feature, FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features.statistics import Column, blocks_of, mean_and_std, vocabulary_of
from trainer.recipe.feature_inputs import CategoricalEventInput, HistoryInput, NumericEventInput
from trainer.recipe.recipe import Recipe

_PARALLEL = "one for each id of {history}, oldest first; missing: leave the list out, or {missing} for a single one"


def extend(schema: FeatureSchema, recipe: Recipe, train: Events) -> FeatureSchema:
    """Returns the schema of the query tower with the features of its histories' events appended."""
    types = {name: attribute.type for name, attribute in recipe.interactions.attributes.items()}
    histories = [feature for feature in recipe.query_tower.features if isinstance(feature, HistoryInput)]
    features: list[Feature] = []
    vocabularies: dict[str, Vocabulary] = {}
    for history in histories:
        for value in history.event_features:
            if isinstance(value, CategoricalEventInput):
                feature = _categorical(history, value, types[value.name])
                if feature.vocabulary:
                    values = blocks_of(train, value.name)()
                    vocabularies[feature.vocabulary] = vocabulary_of(values, value.min_count)
                features.append(feature)
            elif isinstance(value, NumericEventInput):
                features.append(_numeric(history, value, blocks_of(train, value.name)))
        if history.reads_times:
            name = value_name(history.name, TIME)
            description = "when each event was, in seconds since 1970; " + _said(history, "NaN")
            features.append(HistoryTimes(name, history.name, history.max_values, description=description))
    if any(history.reads_ages for history in histories):
        description = "when the request is made, in seconds since 1970; missing: now"
        features.append(RequestTime(description=description))
    if not features:
        return schema
    return dataclasses.replace(
        schema, features=(*schema.features, *features), vocabularies={**schema.vocabularies, **vocabularies}
    )


def _said(history: HistoryInput, missing: str) -> str:
    return _PARALLEL.format(history=history.name, missing=missing)


def _categorical(history: HistoryInput, value: CategoricalEventInput, attribute_type: str) -> HistoryCategorical:
    value_type = "int" if attribute_type == "int" else "string"
    name = value_name(history.name, value.name)
    described = value.description or f"{value.name} of each event"
    return HistoryCategorical(
        name,
        history.name,
        history.max_values,
        value_type,
        vocabulary="" if value.hash_buckets else f"query/{name}",
        hash_buckets=value.hash_buckets,
        description=f"{described}; " + _said(history, '""' if value_type == "string" else "-2^63"),
    )


def _numeric(history: HistoryInput, value: NumericEventInput, column: Column) -> HistoryNumeric:
    mean, std = mean_and_std(_logarithms(column) if value.log else column, f"{history.name}: value {value.name}")
    return HistoryNumeric(
        value_name(history.name, value.name),
        history.name,
        history.max_values,
        mean,
        std if std > 1e-9 else 1.0,
        value.log,
        description=f"{value.description or f'{value.name} of each event'}; " + _said(history, "NaN"),
    )


def _logarithms(column: Column) -> Column:
    """Returns a column of log(1 + value), the logarithm that `retrieval.bundle.features.event_kinds.HistoryNumeric` takes."""
    return lambda: (
        ([None if value is None else float(np.log1p(max(value, 0.0))) for value in values], counts)
        for values, counts in column()
    )


def attribute_of(feature: EventValue) -> str:
    """Returns the name of the event attribute that a feature of a history's events is read from."""
    return feature.name.removeprefix(value_name(feature.history, ""))


def history_columns(
    schema: FeatureSchema, dataset: Dataset, known: Events, users: np.ndarray, asked: Events | None = None
) -> dict[str, list[Any]]:
    """Returns the raw histories of `users` [n] and the features of their events, as a caller would send them.

    Args:
        schema: schema of the query tower.
        dataset: items and users.
        known: events that make the histories, oldest first.
        users: [n] rows.
        asked: later events; a user's first one gives the time of the request. It is missing without these events, and
            for users who have none.
    """
    starts = known.starts(len(dataset.user_ids))
    ids = dataset.items.ids
    columns: dict[str, list[Any]] = {}
    for history in schema.features:
        if not isinstance(history, History):
            continue
        values = schema.event_values(history.name)
        # One more time gives the gap of the oldest event.
        count = history.max_values + any(isinstance(value, HistoryTimes) for value in values)
        bounds = [(max(starts[u], starts[u + 1] - count), starts[u + 1]) for u in users]
        columns[history.name] = [[ids[item] for item in known.items[start:end]] for start, end in bounds]
        for value in values:
            given = known.times if isinstance(value, HistoryTimes) else known.attributes.get(attribute_of(value))
            if given is not None:
                columns[value.name] = [given[start:end].tolist() for start, end in bounds]
    if asked is not None and any(isinstance(feature, RequestTime) for feature in schema.features):
        columns[REQUEST_TIME] = request_times(asked, users, len(dataset.user_ids))
    return columns


def request_times(asked: Events, users: np.ndarray, user_count: int) -> list[float | None]:
    """Returns when each of `users` [n] has the first event in `asked`, in seconds since 1970; None for no event."""
    starts = asked.starts(user_count)
    return [float(asked.times[starts[u]]) if starts[u + 1] > starts[u] else None for u in users]
