"""Raw queries of users, and the towers' embeddings of queries and of the catalogue."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features.event_features import history_columns
from trainer.features.schemas import Schemas, event_names, query_columns
from trainer.recipe.recipe import Recipe
from trainer.training.examples import encode_items

_BATCH = 4096


def raw_queries(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, known: Events, users: np.ndarray, asked: Events | None = None
) -> dict[str, list]:
    """Returns the queries of `users` [n] as a caller would send them: columns of [n].

    Args:
        recipe: features of both towers.
        dataset: users and items.
        schemas: schemas of both towers.
        known: events that make the histories.
        users: [n] rows.
        asked: later events; a user's first one gives the time of the request and features such as its device. They
            are missing without these events, and for users who have none.
    """
    profiles = {name: [column[user] for user in users] for name, column in query_columns(recipe, dataset).items()}
    contexts = {} if asked is None else context_columns(recipe, asked, users, len(dataset.user_ids))
    return {**profiles, **contexts, **history_columns(schemas.query, dataset, known, users, asked)}


def context_columns(recipe: Recipe, asked: Events, users: np.ndarray, user_count: int) -> dict[str, list[Any]]:
    """Returns the features that describe the request: by name, each [n], for each of `users` [n].

    Their values are those of the user's first event in `asked`; None for users who have none.
    """
    starts = asked.starts(user_count)[:-1][users]
    present = np.diff(asked.starts(user_count))[users] > 0
    columns: dict[str, list[Any]] = {}
    for name in event_names(recipe, asked):
        raw = iter(asked.attributes[name][starts[present]].tolist())
        columns[name] = [next(raw) if there else None for there in present]
    return columns


def embed_queries(tower: keras.Model, schemas: Schemas, columns: dict[str, list], count: int) -> np.ndarray:
    """Returns the embeddings of raw queries, encoded as in serving: [count, dimension] float32, unit length."""
    return np.asarray(
        tower.predict(schemas.encode_queries(columns, count), batch_size=_BATCH, verbose=0), dtype=np.float32
    )


def embed_items(tower: keras.Model, schemas: Schemas, dataset: Dataset) -> np.ndarray:
    """Returns the embeddings of the whole catalogue: [item_count, dimension] float32."""
    vectors = tower.predict(encode_items(schemas, dataset), batch_size=_BATCH, verbose=0)
    return np.asarray(vectors, dtype=np.float32)
