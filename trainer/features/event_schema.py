"""Learns the schema of the event features of histories, and collects the raw histories of requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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

_LIST_DESCRIPTION = (
    "one for each id of {history}, oldest first; missing: leave the list out, or {missing} for a single one"
)


def extend(schema: FeatureSchema, recipe: Recipe, train: Events) -> FeatureSchema:
    """Returns the schema of the query tower, extended with the event features of its histories.

    Args:
        schema: Schema of the query tower without event features.
        recipe: Recipe that names the event features.
        train: Training events, from which vocabularies, means and standard deviations are learned.
    """
    types = {name: attribute.type for name, attribute in recipe.interactions.attributes.items()}
    histories = [feature for feature in recipe.query_tower.features if isinstance(feature, HistoryInput)]
    features: list[Feature] = []
    vocabularies: dict[str, Vocabulary] = {}
    for history in histories:
        for spec in history.event_features:
            if isinstance(spec, CategoricalEventInput):
                feature = _categorical(history, spec, types[spec.name])
                if feature.vocabulary:
                    blocks = blocks_of(train, spec.name)()
                    vocabularies[feature.vocabulary] = vocabulary_of(blocks, spec.min_count)
                features.append(feature)
            elif isinstance(spec, NumericEventInput):
                features.append(_numeric(history, spec, blocks_of(train, spec.name)))
        if history.reads_times:
            name = value_name(history.name, TIME)
            description = "when each event was, in seconds since 1970; " + _describe_list(history, "NaN")
            features.append(HistoryTimes(name, history.name, history.max_values, description=description))
    if any(history.reads_ages for history in histories):
        description = "when the request is made, in seconds since 1970; missing: now"
        features.append(RequestTime(description=description))
    if not features:
        return schema
    return dataclasses.replace(
        schema, features=(*schema.features, *features), vocabularies={**schema.vocabularies, **vocabularies}
    )


def _describe_list(history: HistoryInput, missing: str) -> str:
    return _LIST_DESCRIPTION.format(history=history.name, missing=missing)


def _categorical(history: HistoryInput, spec: CategoricalEventInput, attribute_type: str) -> HistoryCategorical:
    value_type = "int" if attribute_type == "int" else "string"
    name = value_name(history.name, spec.name)
    described = spec.description or f"{spec.name} of each event"
    return HistoryCategorical(
        name,
        history.name,
        history.max_values,
        value_type,
        vocabulary="" if spec.hash_buckets else f"query/{name}",
        hash_buckets=spec.hash_buckets,
        description=f"{described}; " + _describe_list(history, '""' if value_type == "string" else "-2^63"),
    )


def _numeric(history: HistoryInput, spec: NumericEventInput, column: Column) -> HistoryNumeric:
    mean, std = mean_and_std(_logarithms(column) if spec.log else column, f"{history.name}: event feature {spec.name}")
    return HistoryNumeric(
        value_name(history.name, spec.name),
        history.name,
        history.max_values,
        mean,
        std if std > 1e-9 else 1.0,
        spec.log,
        description=f"{spec.description or f'{spec.name} of each event'}; " + _describe_list(history, "NaN"),
    )


def _logarithms(column: Column) -> Column:
    """Returns a column of log(1 + value), as `HistoryNumeric` computes it of requests."""
    return lambda: (
        ([None if value is None else float(np.log1p(max(value, 0.0))) for value in values], counts)
        for values, counts in column()
    )


def attribute_of(feature: EventValue) -> str:
    """Returns the name of the event attribute that an event feature is read from."""
    return feature.name.removeprefix(value_name(feature.history, ""))


def history_columns(
    schema: FeatureSchema, dataset: Dataset, known: Events, users: np.ndarray, requests: Events | None = None
) -> dict[str, list[Any]]:
    """Returns the raw histories and event features of users as a client sends them: a list of n values by name.

    Args:
        schema: Schema of the query tower.
        dataset: Items and users.
        known: Events of the histories, oldest first.
        users: [n] rows of the users.
        requests: Events after those of the histories; the time of each user's first one is the time of the request.
            Default: requests without times. The time is also missing for users without such an event.
    """
    columns = histories_of(schema, dataset.items.ids, known, known.starts(len(dataset.user_ids)), users)
    if requests is not None and any(isinstance(feature, RequestTime) for feature in schema.features):
        columns[REQUEST_TIME] = request_times(requests, users, len(dataset.user_ids))
    return columns


def histories_of(
    schema: FeatureSchema, item_ids: Sequence[str], known: Events, starts: np.ndarray, users: np.ndarray
) -> dict[str, list[Any]]:
    """Returns the raw histories and event features of users: a list of n values by name.

    Args:
        schema: Schema of the query tower.
        item_ids: Ids of the items, by their rows in the events.
        known: Events of the histories, oldest first.
        starts: [user_count + 1] row of each user's first event in `known`, as `Events.starts` returns them.
        users: [n] rows of the users.
    """
    columns: dict[str, list[Any]] = {}
    for history in schema.features:
        if not isinstance(history, History):
            continue
        values = schema.event_values(history.name)
        # One more time gives the gap of the oldest event.
        count = history.max_values + any(isinstance(value, HistoryTimes) for value in values)
        bounds = [(max(starts[u], starts[u + 1] - count), starts[u + 1]) for u in users]
        columns[history.name] = [[item_ids[item] for item in known.items[start:end]] for start, end in bounds]
        for value in values:
            given = known.times if isinstance(value, HistoryTimes) else known.attributes.get(attribute_of(value))
            if given is not None:
                columns[value.name] = [given[start:end].tolist() for start, end in bounds]
    return columns


def request_times(requests: Events, users: np.ndarray, user_count: int) -> list[float | None]:
    """Returns the time of the first event in `requests` of each of `users` [n], in seconds since 1970.

    It is None for users without an event in `requests`.
    """
    starts = requests.starts(user_count)
    return [float(requests.times[starts[u]]) if starts[u + 1] > starts[u] else None for u in users]
