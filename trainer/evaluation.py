"""The model beside what anyone could do without one, on held-out events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from trainer.data import Dataset, Events
from trainer.examples import encode_items
from trainer.metrics import HeldOut, Scorer, evaluate
from trainer.recipe import Recipe
from trainer.schema import Schemas, history_columns, query_columns
from trainer.splits import Parts

_BATCH = 4096

MODEL, POPULARITY = "two-tower", "popularity"
"""Names of the methods."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the test part.

    Attributes:
        metrics: by method, then by metric.
        user_count: users evaluated.
        cold_user_count: users of the test without any known item, left out.
        cold_item_share: share of the relevant items that no training event has; they stay in.
        repeat_share: share of the test events whose user already had the item; they do not count.
    """

    metrics: Mapping[str, Mapping[str, float]]
    user_count: int
    cold_user_count: int
    cold_item_share: float
    repeat_share: float


def raw_queries(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, known: Events, users: np.ndarray
) -> dict[str, list]:
    """Returns the queries of `users` [n] as a caller would send them, with the history of `known`: columns of [n]."""
    profiles = {name: [column[u] for u in users] for name, column in query_columns(recipe, dataset).items()}
    return {**profiles, **history_columns(schemas.query, dataset, known, users)}


def embed_queries(tower: keras.Model, schemas: Schemas, columns: Mapping[str, list], count: int) -> np.ndarray:
    """Returns [count, dimension] float32 by the encoder that serving uses."""
    inputs = schemas.query.encode(columns, count)
    return np.asarray(tower.predict(inputs, batch_size=_BATCH, verbose=0), dtype=np.float32)


def embed_items(tower: keras.Model, schemas: Schemas, dataset: Dataset) -> np.ndarray:
    """Returns [item_count, dimension] float32, the whole catalogue."""
    vectors = tower.predict(encode_items(schemas.item, dataset), batch_size=_BATCH, verbose=0)
    return np.asarray(vectors, dtype=np.float32)


def model_scorer(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, towers: tuple[keras.Model, keras.Model], known: Events
) -> Scorer:
    """Returns what scores users by the dot product of the two towers, with the history of `known`."""
    query_tower, item_tower = towers
    vectors = embed_items(item_tower, schemas, dataset)

    def score(users: np.ndarray) -> np.ndarray:
        queries = raw_queries(recipe, dataset, schemas, known, users)
        return embed_queries(query_tower, schemas, queries, len(users)) @ vectors.T  # [n, item_count]

    return score


def popularity_scorer(known: Events, item_count: int) -> Scorer:
    """Returns what scores all users alike: by how many events an item has in `known`."""
    counts = known.item_counts(item_count).astype(np.float32)
    return lambda users: np.broadcast_to(counts, (len(users), item_count))


def evaluate_validation(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, towers: tuple[keras.Model, keras.Model], parts: Parts
) -> dict[str, float]:
    """Returns the model's metrics on the validation part: what may guide choices."""
    held_out = HeldOut.of(parts.train.pairs, parts.valid.pairs, len(dataset.items.ids))
    return evaluate(held_out, model_scorer(recipe, dataset, schemas, towers, parts.train))


def evaluate_test(
    recipe: Recipe, dataset: Dataset, schemas: Schemas, towers: tuple[keras.Model, keras.Model], parts: Parts
) -> Evaluation:
    """Returns model and baseline on the test part; training and validation items are excluded from the ranking."""
    known, item_count = parts.known, len(dataset.items.ids)
    known_pairs, test_pairs = known.pairs, parts.test.pairs
    held_out = HeldOut.of(known_pairs, test_pairs, item_count)
    relevant = np.concatenate(held_out.relevant)
    trained = parts.train.item_counts(item_count) > 0
    had = np.isin(_keys(parts.test, item_count), known_pairs.astype(np.int64) @ [item_count, 1])
    return Evaluation(
        metrics={
            MODEL: evaluate(held_out, model_scorer(recipe, dataset, schemas, towers, known)),
            POPULARITY: evaluate(held_out, popularity_scorer(known, item_count)),
        },
        user_count=len(held_out.users),
        cold_user_count=len(np.setdiff1d(parts.test.users, known.users)),
        cold_item_share=float((~trained[relevant]).mean()),
        repeat_share=float(had.mean()),
    )


def _keys(events: Events, item_count: int) -> np.ndarray:
    return events.users.astype(np.int64) * item_count + events.items
