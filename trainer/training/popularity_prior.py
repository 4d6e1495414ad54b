"""The recent-popularity prior: an added dimension of the vectors of trained towers, which holds recent popularity.

Towers learn the probability of an item, given a query, from all training events. The overall popularity of items
changes faster, with seasons and novelties. Such a shift of the prior can be corrected after training (Saerens et al.
2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities"; Menon et al. 2021, "Long-tail Learning via
Logit Adjustment", also add the logarithm of a prior to the logits).

Let ``b`` be the weight of the prior, and ``p`` the logarithm of the number of recent events of an item, divided by the
logarithm for the most popular item, so that ``p`` is 0 to 1. The vector of an item becomes
``[sqrt(1 - b p²) u, sqrt(b) p]``, where ``u`` is the output of the item tower, and the vector of a query becomes
``[sqrt(1 - b) q, sqrt(b)]``, where ``q`` is the output of the query tower. Both are of unit length, and their dot
product is ``sqrt((1 - b) (1 - b p²)) q·u + b p``.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features.schemas import ITEMS, Schemas
from trainer.model.ensemble import Towers
from trainer.model.prior_layers import ItemPopularity, QueryPrior
from trainer.recipe.recipe import ITEM_ID, Recipe
from trainer.recipe.training import Training

_DAY_S = 86_400.0


def add(towers: Towers, recipe: Recipe, dataset: Dataset, schemas: Schemas, train: Events) -> Towers:
    """Returns the towers with the recent-popularity prior added, or the same towers if `Training.prior_weight` is 0.

    Args:
        towers: Query tower and item tower, which become layers of the result.
        recipe: Recipe that describes the prior.
        dataset: Users and items.
        schemas: Feature schemas of both towers.
        train: Events that the towers were trained on; the prior counts the newest ones.
    """
    weight = recipe.training.prior_weight
    if not weight:
        return towers
    query_tower, item_tower = towers
    vocabulary = schemas.item.vocabularies[ITEMS]
    layer = ItemPopularity(vocabulary.slot_count, math.sqrt(weight), dtype="float32", name="item_prior")
    popularity = recent_popularity(recipe.training, train.relevant, len(dataset.items.ids))
    layer.assign(vocabulary.lookup(dataset.items.ids), popularity)
    queries, items = _inputs(query_tower), _inputs(item_tower)
    return (
        keras.Model(queries, QueryPrior(weight, dtype="float32", name="query_prior")(query_tower(queries))),
        keras.Model(items, layer(item_tower(items), items[ITEM_ID])),
    )


def _inputs(tower: keras.Model) -> dict[str, Any]:
    return {name: keras.Input(t.shape[1:], dtype=t.dtype, name=name) for name, t in tower.input.items()}


def recent_popularity(training: Training, events: Events, item_count: int) -> np.ndarray:
    """Returns the recent popularity of each item on a logarithmic scale: [item_count] float32, 0 to 1.

    Args:
        training: Training keys of a recipe, see `count_recent`.
        events: Training events, at least one.
        item_count: Number of items of the catalogue.
    """
    logs = np.log1p(count_recent(training, events, item_count))  # not all 0, as the newest event is recent
    return (logs / logs.max()).astype(np.float32)


def count_recent(training: Training, events: Events, item_count: int) -> np.ndarray:
    """Returns the number of recent events of each item: [item_count] int64, not all 0.

    Recent events are targets of the training that are at most `prior_days` older than the newest target.

    Args:
        training: Training keys of a recipe: `prior_days`, and whether only the first event of a user with an item is a
            target.
        events: Training events, at least one.
        item_count: Number of items of the catalogue.
    """
    novel = training.novel_targets or training.event_order == "shuffled"
    counted = events.is_first if novel else np.broadcast_to(True, len(events))
    blocks = spill.blocks(len(events))
    newest = max(events.times[block].max(where=counted[block], initial=-np.inf) for block in blocks)
    since = newest - training.prior_days * _DAY_S
    counts = np.zeros(item_count, dtype=np.int64)
    for block in spill.blocks(len(events)):
        recent = counted[block] & (events.times[block] >= since)
        counts += np.bincount(events.items[block][recent], minlength=item_count)
    return counts
