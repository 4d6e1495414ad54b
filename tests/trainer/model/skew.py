"""Query embeddings of two users, computed both as in training and as in serving."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.trainer.world import dataset
from trainer.data.dataset import Dataset
from trainer.features.schemas import Schemas, learn_schemas
from trainer.model import towers
from trainer.model.embeddings import encode_items, history_slots
from trainer.model.towers import QueryTower
from trainer.model.trained_texts import TrainedTexts
from trainer.model.two_tower import TwoTower
from trainer.recipe.recipe import Recipe
from trainer.training.examples import Examples


def two_users(own: Recipe) -> tuple[TwoTower, QueryTower, Schemas, Dataset]:
    """Returns an untrained model of two users with 9 and 4 events."""
    users = {"a": {"age": 30.0, "gender": "f"}, "b": {"age": 50.0, "gender": "m"}}
    # The shop's history holds 10: the transformer's sequences have 5 events of context and 5 targets.
    bought = [("a", f"p{at % 4}", float(at)) for at in range(9)] + [("b", f"p{at % 3}", float(at)) for at in range(4)]
    shop = dataset(bought, users)
    built = learn_schemas(own, shop, shop.events)
    keras.utils.set_random_seed(1)
    query, item = towers.build(own, built)
    counts = shop.events.item_counts(len(shop.items.ids))
    model = TwoTower(
        query, item, own, encode_items(built, shop), history_slots(built, shop), counts, TrainedTexts(built)
    )
    model.fill_tables()
    return model, query, built, shop


def queries_both_ways(own: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Returns the query embeddings before each of the 13 events: from training sequences, and from raw requests."""
    model, query, built, shop = two_users(own)
    batch = Examples(own, shop, built, shop.events, context=10, targets=10).batch(np.arange(2))
    trained = np.array(model.embed_queries(tf.nest.map_structure(tf.convert_to_tensor, batch), training=False))
    starts = shop.events.starts(2)
    rows = [starts[user] + at for user in range(2) for at in range(starts[user + 1] - starts[user])]
    raw: dict[str, Any] = {
        "history": [[shop.items.ids[i] for i in shop.events.items[starts[shop.events.users[r]] : r]] for r in rows],
        "age": [shop.user_columns["age"][shop.events.users[r]] for r in rows],
        "gender": [shop.user_columns["gender"][shop.events.users[r]] for r in rows],
    }
    return trained, np.array(query.model(built.query.encode(raw, len(rows))))
