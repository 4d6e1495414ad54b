"""Training examples: for each event, what was known of the user just before, and the item that came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from bundle.features import FeatureSchema, History
from trainer.data import Dataset, Events
from trainer.recipe import ITEM_ID, Recipe, Training
from trainer.schema import Schemas, query_columns


def encode_items(schema: FeatureSchema, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns the item tower's inputs of the whole catalogue, each [item_count, ...]."""
    columns = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in schema.features
    }
    return schema.encode(columns, len(dataset.items.ids))


def batch_size(training: Training, event_count: int) -> int:
    """Returns how many events make a step: the recipe's, or fewer where an epoch would have under 20 steps."""
    return min(training.batch_size, event_count, max(32, event_count // 20))


class Examples:
    """The training events as batches of model inputs.

    The history of an event is gathered from the events before it, never encoded again from raw ids; a test holds the
    result equal to what `FeatureSchema.encode` makes of the same raw history.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, schemas: Schemas, train: Events) -> None:
        """Encodes users and items once."""
        self._events = train
        self._schema = schemas.query
        self._first = train.starts(len(dataset.user_ids))[train.users]  # [n] the first event of the same user
        self._profiles = schemas.query.encode(query_columns(recipe, dataset), len(dataset.user_ids))
        self._items = encode_items(schemas.item, dataset)
        histories = [feature for feature in schemas.query.features if isinstance(feature, History)]
        self._item_slots = {f.name: schemas.query.slots(f).lookup(dataset.items.ids) for f in histories}
        share = train.item_counts(len(dataset.items.ids)) / len(train)
        self._log_q = np.log(np.maximum(share, 1e-12)).astype(np.float32)
        self._batch_size = batch_size(recipe.training, len(train))
        self._seed = recipe.seed
        self._epoch = 0

    @property
    def steps(self) -> int:
        """Batches an epoch; the last events of a shuffle that fill no batch wait for the next epoch."""
        return len(self._events) // self._batch_size

    def batch(self, at: np.ndarray) -> dict[str, Any]:
        """Returns the examples of the events `at` [batch].

        Returns:
            ``query`` and ``item``: inputs of the towers by feature; ``item_row``: [batch] int32 catalogue rows;
            ``log_q``: [batch] float32, the log share of the item among the training events; ``weight``: [batch].
        """
        events = self._events
        query = {name: values[events.users[at]] for name, values in self._profiles.items()}
        for feature in self._schema.features:
            if isinstance(feature, History):
                before = at[:, None] - 1 - np.arange(feature.max_values)  # [batch, max_values], newest first
                slots = self._item_slots[feature.name][events.items[np.maximum(before, 0)]]
                query[feature.name] = np.where(before >= self._first[at][:, None], slots, 0).astype(np.int32)
        item = events.items[at]
        return {
            "query": query,
            "item": {name: values[item] for name, values in self._items.items()},
            "item_row": item,
            "log_q": self._log_q[item],
            "weight": events.weights[at],
        }

    def dataset(self) -> tf.data.Dataset:
        """Returns the batches of one epoch, shuffled anew each time it is run through, the same for the same seed."""

        def epoch() -> Iterator[dict[str, Any]]:
            order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._events))
            self._epoch += 1
            for step in range(self.steps):
                yield self.batch(order[step * self._batch_size : (step + 1) * self._batch_size])

        signature = tf.nest.map_structure(
            lambda a: tf.TensorSpec((self._batch_size, *a.shape[1:]), a.dtype), self.batch(np.arange(1))
        )
        return tf.data.Dataset.from_generator(epoch, output_signature=signature).prefetch(8)
