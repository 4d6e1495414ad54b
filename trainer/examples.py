"""Training examples: sequences of events, each event the target of all that came before it.

A sequence is a piece of one user's events, oldest first: some that are context alone, then the targets. The query of
the target at t is made of the events before t, or with ``history_lag`` of those long enough before it, and of what was
known of the user; `trainer.history` encodes all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bundle.features import FeatureSchema, History
from bundle.vocabulary import OUT_OF_VOCABULARY
from trainer.data import Dataset, Events
from trainer.recipe import ITEM_ID, Recipe, Training
from trainer.schema import Schemas, event_columns, query_columns

_SORTED_BATCHES = 16
"""Sequences of so many batches are sorted by length before they are cut, so that little of a batch is padding."""


def encode_items(schema: FeatureSchema, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns the item tower's inputs of the whole catalogue, each [item_count, ...]."""
    columns = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in schema.features
    }
    return schema.encode(columns, len(dataset.items.ids))


def history_slots(schemas: Schemas, dataset: Dataset) -> np.ndarray:
    """Returns the slot of each item in a history: [item_count] int32."""
    histories = [f for f in schemas.query.features if isinstance(f, History)]
    if not histories:
        return np.full(len(dataset.items.ids), OUT_OF_VOCABULARY, dtype=np.int32)
    return schemas.query.slots(histories[0]).lookup(dataset.items.ids)


def batch_size(training: Training, event_count: int) -> int:
    """Returns how many events make a step: the recipe's, or fewer where an epoch would have under 20 steps."""
    return min(training.batch_size, event_count, max(32, event_count // 20))


class Examples:
    """The training events as batches of model inputs.

    Attributes:
        count: targets an epoch.
        steps: batches an epoch.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, schemas: Schemas, train: Events, *, context: int, targets: int
    ):
        """Encodes users and cuts sequences.

        Args:
            recipe: batch size and seed.
            dataset: users and items.
            schemas: what the towers read.
            train: the events.
            context: events before the first target of a sequence, at most.
            targets: of a sequence, at most.
        """
        self._events = train
        profiles, contexts = query_columns(recipe, dataset), event_columns(recipe, train)
        schema = schemas.query
        self._profiles = schema.subset(profiles).encode(profiles, len(dataset.user_ids))
        self._contexts = schema.subset(contexts).encode(contexts, len(train))
        self._slots = {
            f.name: schema.slots(f).lookup(dataset.items.ids) for f in schema.features if isinstance(f, History)
        }
        share = train.item_counts(len(dataset.items.ids)) / len(train)
        self._log_q = np.log(np.maximum(share, 1e-12)).astype(np.float32)
        self._seed = recipe.seed
        self._is_target = _first_times(train) if recipe.training.novel_targets else np.ones(len(train), dtype=bool)
        self.count = int(self._is_target.sum())
        starts = train.starts(len(dataset.user_ids))
        self._seen_until = _seen_until(train, starts, recipe.training.history_lag)
        self._first, self._target, self._end = _sequences(starts, self._seen_until, context, targets)
        targets_to = np.concatenate([[0], np.cumsum(self._is_target)])
        counts = targets_to[self._end] - targets_to[self._target]  # of each sequence
        self._first, self._target, self._end = (a[counts > 0] for a in (self._first, self._target, self._end))
        self._counts = counts[counts > 0]
        self.steps = min(max(1, round(self.count / batch_size(recipe.training, self.count))), len(self._first))

    def batch(self, sequences: np.ndarray) -> dict[str, Any]:
        """Returns the examples of some sequences.

        Args:
            sequences: [batch] int64.

        Returns:
            ``histories``: by feature, [batch, length] int32 slots, oldest first, padded behind; ``items``: [batch,
            length] int32, the same as catalogue rows, anything where it is padded; ``at``: [n] int32, of each target
            the place in the flattened sequences that its history reaches up to; ``others``: by feature, inputs of the query tower that are
            no history, [n, ...]; ``user`` and ``item``: [n] int32 rows; ``log_q``: [n] float32, the log share of the
            item among the training events; ``weight``: [n] float32.
        """
        first, target, end = self._first[sequences], self._target[sequences], self._end[sequences]
        length = int((end - first).max())
        places = np.arange(length)
        events = first[:, None] + places  # [batch, length]
        inside = events < end[:, None]
        items = self._events.items[np.minimum(events, end[:, None] - 1)]
        is_target = inside & (events >= target[:, None])
        is_target &= self._is_target[np.minimum(events, end[:, None] - 1)]
        at = np.flatnonzero(is_target)
        rows = events.ravel()[at]  # [n] rows of the training events
        users, item = self._events.users[rows], self._events.items[rows]
        at -= np.minimum(rows - self._seen_until[rows], at % length)  # never beyond the start of the sequence
        others = {name: values[users] for name, values in self._profiles.items()}
        others |= {name: values[rows] for name, values in self._contexts.items()}
        return {
            "histories": {
                name: np.where(inside, slots[items], 0).astype(np.int32) for name, slots in self._slots.items()
            },
            "items": items,
            "at": at.astype(np.int32),
            "others": others,
            "user": users,
            "item": item,
            "log_q": self._log_q[item],
            "weight": self._events.weights[rows],
        }

    def epoch(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields `steps` batches: all sequences once, in an order that the seed and the number of the epoch decide."""
        generator = np.random.default_rng((self._seed, number))
        order = generator.permutation(len(self._first))
        if self._slots:
            block = -(-len(order) * _SORTED_BATCHES // self.steps)
            lengths = self._end - self._first
            pieces = [order[start : start + block] for start in range(0, len(order), block)]
            order = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
        # Cut where the targets so far pass a multiple of the batch size.
        passed = np.cumsum(self._counts[order])
        cuts = np.searchsorted(passed, passed[-1] * np.arange(1, self.steps) / self.steps)
        # No batch is empty, however long a sequence is.
        ahead = np.arange(1, self.steps)
        cuts = np.clip(np.maximum.accumulate(cuts - ahead) + ahead, ahead, len(order) - self.steps + ahead)
        batches = np.split(order, cuts)
        for at in generator.permutation(len(batches)):
            yield self.batch(batches[at])

    def dataset(self, first_epoch: int, epochs: int) -> tf.data.Dataset:
        """Returns the batches of some epochs, from epoch `first_epoch` (counted from 0) on; shapes vary.

        Each element is the number of its epoch beside a batch.
        """

        def run() -> Iterator[tuple[int, dict[str, Any]]]:
            for number in range(first_epoch, first_epoch + epochs):
                for batch in self.epoch(number):
                    yield number, batch

        return tf.data.Dataset.from_generator(
            run, output_signature=(tf.TensorSpec((), tf.int64), self.signature)
        ).prefetch(8)

    @property
    def signature(self) -> Mapping[str, Any]:
        """Shapes and types of a batch, None where they vary."""
        example = self.batch(np.arange(1))
        flat = {name: example[name] for name in example.keys() - {"histories", "items"}}
        signature = tf.nest.map_structure(lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), flat)
        histories = {name: tf.TensorSpec((None, None), tf.int32) for name in example["histories"]}
        return {**signature, "histories": histories, "items": tf.TensorSpec((None, None), tf.int32)}


def _first_times(events: Events) -> np.ndarray:
    """Returns [n] bool: whether the user had not met the item before."""
    keys = events.users.astype(np.int64) * (int(events.items.max()) + 1) + events.items
    first = np.zeros(len(events), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _seen_until(events: Events, starts: np.ndarray, lag: float | None) -> np.ndarray:
    """Returns [n] int64: the history of event i is made of its user's events up to row ``seen_until[i]``, without it.

    Args:
        events: sorted by user and time.
        starts: as of `Events.starts`.
        lag: see `trainer.recipe.Training.history_lag`.
    """
    until = np.arange(len(events))
    if lag is not None:
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            times = events.times[start:end]
            until[start:end] = start + np.searchsorted(times, times - lag)  # the first event that is not before then
    return until


def _sequences(
    starts: np.ndarray, seen_until: np.ndarray, context: int, targets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, of each sequence, the rows of its first event and first target and the row behind its last one."""
    counts = -(-np.diff(starts) // targets)  # sequences of each user
    user = np.repeat(np.arange(len(starts) - 1), counts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    target = starts[user] + number * targets
    return np.maximum(starts[user], seen_until[target] - context), target, np.minimum(target + targets, starts[user + 1])
