"""Computes raw queries of users, inputs of the towers, and embeddings of queries and of the catalogue."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features.event_schema import history_columns
from trainer.features.schemas import Schemas, event_names, query_columns
from trainer.recipe.recipe import ITEM_ID, Recipe

_BATCH = 4096


def raw_queries(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, known: Events, users: np.ndarray, requests: Events | None = None
) -> dict[str, list]:
    """Returns the queries of users in the form in which a client sends them: a list of n values by feature name.

    Args:
        recipe: Recipe that describes both towers.
        dataset: Users and items.
        schemas: Feature schemas of both towers.
        known: Events of the histories.
        users: [n] int, row numbers of the users in `dataset.user_ids`.
        requests: Events after those of the histories; the first event of each user gives the time and the other
            features of the request, such as the device. Default: requests without time and features.
    """
    profiles = {name: [column[user] for user in users] for name, column in query_columns(recipe, dataset).items()}
    contexts = {} if requests is None else context_columns(recipe, requests, users, len(dataset.user_ids))
    return {**profiles, **contexts, **history_columns(schemas.query, dataset, known, users, requests)}


def context_columns(recipe: Recipe, requests: Events, users: np.ndarray, user_count: int) -> dict[str, list[Any]]:
    """Returns the features that describe requests, such as the device: a list of n values by feature name.

    The values of a user are the attributes of the user's first event in `requests`, and None if there is no such event.

    Args:
        recipe: Recipe that names the features.
        requests: Events in order of user and time.
        users: [n] int, row numbers of the users.
        user_count: Number of all users of the dataset.
    """
    starts = requests.starts(user_count)[:-1][users]
    present = np.diff(requests.starts(user_count))[users] > 0
    columns: dict[str, list[Any]] = {}
    for name in event_names(recipe, requests):
        raw = iter(requests.attributes[name][starts[present]].tolist())
        columns[name] = [next(raw) if has_request else None for has_request in present]
    return columns


def encode_items(schemas: Schemas, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns the inputs of the item tower for the whole catalogue: by feature name, each [item_count, ...]."""
    columns = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in schemas.item.features
    }
    return schemas.encode_items(columns, len(dataset.items.ids))


def history_slots(schemas: Schemas, dataset: Dataset) -> np.ndarray:
    """Returns the slot (embedding index) by which a history refers to each item: [item_count] int32.

    All items are out-of-vocabulary if the query tower has no history.
    """
    histories = [feature for feature in schemas.query.features if isinstance(feature, History)]
    if not histories:
        return np.full(len(dataset.items.ids), OUT_OF_VOCABULARY, dtype=np.int32)
    return schemas.query.slots(histories[0]).lookup(dataset.items.ids)


def embed_queries(tower: keras.Model, schemas: Schemas, columns: dict[str, list], count: int) -> np.ndarray:
    """Returns the embeddings of raw queries, encoded as in serving: [count, dimension] float32, unit length.

    Args:
        tower: Query tower.
        schemas: Feature schemas of both towers.
        columns: Raw values by feature name, each a list of length `count`.
        count: Number of queries.
    """
    return np.asarray(
        tower.predict(schemas.encode_queries(columns, count), batch_size=_BATCH, verbose=0), dtype=np.float32
    )


def embed_items(tower: keras.Model, schemas: Schemas, dataset: Dataset) -> np.ndarray:
    """Returns the embeddings of the whole catalogue: [item_count, dimension] float32, unit length."""
    vectors = tower.predict(encode_items(schemas, dataset), batch_size=_BATCH, verbose=0)
    return np.asarray(vectors, dtype=np.float32)
