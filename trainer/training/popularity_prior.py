"""What people take lately, as one more dimension beside fitted towers: the one thing that months of events cannot tell.

Towers learn from all events of the training part how likely an item is, given a query. What is asked for next differs
in how often it is taken at all: seasons, novelties. Such a shift of the prior is mended after fitting, without fitting
anew (Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities"; Menon et al. 2021,
"Long-tail Learning via Logit Adjustment", add the logarithm of a prior to the logits likewise).

With the weight ``b`` and ``p`` between 0 and 1, the logarithm of how often an item was taken lately over that of the
one taken most, an item's vector is ``[sqrt(1 - b p²) u, sqrt(b) p]`` of the tower's ``u``, a query's ``[sqrt(1 - b) q,
sqrt(b)]`` of its ``q``. They stay of unit length, and their dot product is ``sqrt((1 - b) (1 - b p²)) q·u + b p``.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from retrieval.bundle.features.vocabulary import FIRST_VALUE
from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.features.schemas import ITEMS, Schemas
from trainer.model.ensemble import Towers
from trainer.recipe.recipe import ITEM_ID, Recipe
from trainer.recipe.training import Training

_DAY_S = 86_400.0

_register = keras.saving.register_keras_serializable(package="two_tower")


@_register
class ItemPopularity(keras.layers.Layer):
    """Adds an item's popularity to its vector as one more dimension.

    Attributes:
        shares: [slot_count] float32, 0 to 1, by slot of the item id; 0 for unknown items. `assign` sets it.

    Args:
        slot_count: slots of the vocabulary of items.
        highest: the popularity of the most popular item in its vector, above 0 and below 1.
    """

    def __init__(self, slot_count: int, highest: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slot_count, self.highest = slot_count, highest
        self.shares = self.add_weight(shape=(slot_count,), initializer="zeros", trainable=False, name="shares")
        self.built = True

    def assign(self, slots: np.ndarray, popularity: np.ndarray) -> None:
        """Sets the popularity of items, 0 to 1, [n] float32 by their slots [n] int32; unknown ones have none."""
        shares = np.zeros(self.slot_count, dtype=np.float32)
        known = slots >= FIRST_VALUE
        shares[slots[known]] = popularity[known]
        self.shares.assign(shares)

    def call(self, vectors, slots):
        """Returns [batch, dim + 1] float32, unit length, of vectors [batch, dim] of that length and slots [batch]."""
        share: Any = ops.expand_dims(ops.take(self.shares, slots), -1)
        share = self.highest * share
        return ops.concatenate([vectors * ops.sqrt(1.0 - share * share), share], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "slot_count": self.slot_count, "highest": self.highest}


@_register
class QueryPrior(keras.layers.Layer):
    """Adds the weight of the prior to a query's vector, the same for all.

    Args:
        weight: above 0 and below 1.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, vectors):
        """Returns [..., dim + 1] float32, unit length, of vectors [..., dim] of that length."""
        last = ops.full_like(vectors[..., :1], math.sqrt(self.weight))
        return ops.concatenate([vectors * math.sqrt(1.0 - self.weight), last], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "weight": self.weight}


def add(towers: Towers, recipe: Recipe, dataset: Dataset, schemas: Schemas, fitted_on: Events) -> Towers:
    """Returns the towers with the prior that the recipe asks for; the same ones where it asks for none.

    Args:
        towers: query tower and item tower, which become part of the result.
        recipe: `trainer.recipe.training.Training.prior_weight` and what goes with it.
        dataset: users and items.
        schemas: what the towers read.
        fitted_on: the events that the towers learned from: the prior knows no others.
    """
    weight = recipe.training.prior_weight
    if not weight:
        return towers
    query_tower, item_tower = towers
    vocabulary = schemas.item.vocabularies[ITEMS]
    layer = ItemPopularity(vocabulary.slot_count, math.sqrt(weight), dtype="float32", name="item_prior")
    layer.assign(
        vocabulary.lookup(dataset.items.ids), lately(recipe.training, fitted_on.relevant, len(dataset.items.ids))
    )
    queries, items = _inputs(query_tower), _inputs(item_tower)
    return (
        keras.Model(queries, QueryPrior(weight, dtype="float32", name="query_prior")(query_tower(queries))),
        keras.Model(items, layer(item_tower(items), items[ITEM_ID])),
    )


def _inputs(tower: keras.Model) -> dict[str, Any]:
    return {name: keras.Input(t.shape[1:], dtype=t.dtype, name=name) for name, t in tower.input.items()}


def lately(training: Training, events: Events, item_count: int) -> np.ndarray:
    """Returns how often each item was taken lately: [item_count] float32, 0 to 1, on a logarithmic scale."""
    logs = np.log1p(count_lately(training, events, item_count))  # one is above 0: the newest event counts
    return (logs / logs.max()).astype(np.float32)


def count_lately(training: Training, events: Events, item_count: int) -> np.ndarray:
    """Returns how many events of each item the prior counts: [item_count] int64, not all 0.

    Args:
        training: `prior_days`, back from the newest event that counts; and whether what a user had before is a target,
            and so counts.
        events: at least one.
        item_count: of the catalogue.
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
