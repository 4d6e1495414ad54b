"""Training examples: sequences of events, each event the target of all that came before it.

A sequence is a piece of one user's events, oldest first: some that are context alone, then the targets. The query of
the target at t is made of the events before t, or with ``history_lag`` of those long enough before it, and of what was
known of the user; `trainer.model.history.encoders` encodes all of them at once. With ``event_order = "shuffled"`` a user's events are
the first ones of each item, in an order that each epoch draws anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema, encode_inputs
from retrieval.bundle.features.text import TextEncoders
from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY
from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.errors import TrainingError
from trainer.features.schemas import Schemas, event_names, query_columns
from trainer.recipe.recipe import ITEM_ID, Recipe
from trainer.recipe.training import Training
from trainer.training import shuffling
from trainer.training.event_batches import EventInputs


def encode_items(schemas: Schemas, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns the item tower's inputs for the whole catalogue, each [item_count, ...]."""
    columns = {
        feature.name: list(dataset.items.ids) if feature.name == ITEM_ID else dataset.item_column(feature.name)
        for feature in schemas.item.features
    }
    return schemas.encode_items(columns, len(dataset.items.ids))


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
        self._shuffled = recipe.training.event_order == "shuffled"
        if self._shuffled:
            train = train.where(train.is_first)
        self._events = train
        profiles = query_columns(recipe, dataset)
        schema = schemas.query
        of_users = schema.subset(profiles)
        self._profiles = encode_inputs(of_users, schemas.text_encoders, profiles, len(dataset.user_ids))
        self._contexts = _encode(schema.subset(event_names(recipe, train)), schemas.text_encoders, train)
        self._slots = {
            f.name: schema.slots(f).lookup(dataset.items.ids) for f in schema.features if isinstance(f, History)
        }
        self._values = EventInputs(recipe, schema, train, starts := train.starts(len(dataset.user_ids)))
        share = train.item_counts(len(dataset.items.ids)) / len(train)
        self._log_q = np.log(np.maximum(share, 1e-12)).astype(np.float32)
        self._seed = recipe.seed
        lag = recipe.training.history_lag
        self._seen_until = None if lag is None else _seen_until(train, starts, lag)
        self._first, self._target, self._end = _sequences(starts, self._seen_until, context, targets)
        novel = recipe.training.novel_targets and not self._shuffled  # shuffled ones are novel all
        self._is_target = train.is_first if novel else None
        counts = self._end - self._target if self._is_target is None else _count_in(self._is_target, self._target)
        self.count = int(counts.sum())
        self._first, self._target, self._end = (a[counts > 0] for a in (self._first, self._target, self._end))
        self._counts = counts[counts > 0]
        self.steps = min(max(1, round(self.count / batch_size(recipe.training, self.count))), len(self._first))

    def batch(self, sequences: np.ndarray, shuffled: np.ndarray | None = None) -> dict[str, Any]:
        """Returns the examples of some sequences.

        Args:
            sequences: [batch] int64.
            shuffled: [event_count] int64, which event stands in the place of each. Default: each in its own.

        Returns:
            ``histories``: by feature, [batch, length] int32 slots, oldest first, padded behind; ``values``: by history,
            what is known of its events by feature, [batch, length, ...]; ``windows``: by history that depends on the
            time of the request, [n, max_values] int32, of each target the places in the flattened sequences that its
            history is made of, newest first: the first two are then of these, and padded behind; ``items``: [batch,
            length] int32, catalogue rows, anything where it is padded; ``at``: [n] int32, of each target
            the place in the flattened sequences that its history reaches up to; ``others``: by feature, inputs of the
            query tower that are no history, [n, ...]; ``user`` and ``item``: [n] int32 rows; ``log_q``: [n] float32,
            the log share of the item among the training events; ``weight``: [n] float32; ``label``: [n] float32, 0 to
            1, how well the item answers.
        """
        first, target, end = self._first[sequences], self._target[sequences], self._end[sequences]
        length = int((end - first).max())
        places = np.arange(length)
        events = first[:, None] + places  # [batch, length]
        inside = events < end[:, None]
        rows_at = np.minimum(events, end[:, None] - 1)
        if shuffled is not None:
            rows_at = shuffled[rows_at]
        items = self._events.items[rows_at]
        is_target = inside & (events >= target[:, None])
        if self._is_target is not None:
            is_target &= self._is_target[rows_at]
        at = np.flatnonzero(is_target)
        rows = rows_at.ravel()[at]  # [n] rows of the training events
        users, item = self._events.users[rows], self._events.items[rows]
        if self._seen_until is not None:
            at -= np.minimum(rows - self._seen_until[rows], at % length)  # never beyond the start of the sequence
        others = {name: values[users] for name, values in self._profiles.items()}
        others |= {name: values[rows] for name, values in self._contexts.items()}
        histories = {name: np.where(inside, slots[items], 0).astype(np.int32) for name, slots in self._slots.items()}
        windows: dict[str, np.ndarray] = {}
        values = self._values.of_sequences(rows_at, inside)
        for name, width in self._values.window_widths.items():
            places = at[:, None] - 1 - np.arange(width)  # [n, width] of the flattened sequences
            seen = places >= (at - at % length)[:, None]  # not before the start of the sequence
            windows[name] = np.where(seen, places, 0).astype(np.int32)
            histories[name] = np.where(seen, histories[name].ravel()[windows[name]], 0).astype(np.int32)
            values[name] = self._values.of_windows(name, rows_at.ravel()[windows[name]], seen, rows)
        return {
            "histories": histories,
            "values": values,
            "windows": windows,
            "items": items,
            "at": at.astype(np.int32),
            "others": others,
            "user": users,
            "item": item,
            "log_q": self._log_q[item],
            "weight": self._events.weights[rows],
            "label": self._events.relevance[rows],
        }

    def epoch(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields `steps` batches: all sequences once, in an order that the seed and the number of the epoch decide."""
        shuffled = self._shuffle(number)
        return (self.batch(sequences, shuffled) for sequences in self._order(number))

    def _shuffle(self, number: int) -> np.ndarray | None:
        """Returns which event stands in the place of each, see `batch`; None where time is their order."""
        if not self._shuffled:
            return None
        generator = np.random.default_rng((self._seed, number, 1))
        rows = spill.empty((len(self._events),), np.dtype(np.int64))
        for block in self._events.blocks():
            users = self._events.users[block]
            rows[block] = block.start + np.lexsort((generator.random(len(users)), users))
        return rows

    def _order(self, number: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng((self._seed, number))
        lengths = self._end - self._first if self._slots else None
        return shuffling.batches(self._first, lengths, self._counts, self.steps, generator)

    def _shared(self, sequences: np.ndarray, shuffled: np.ndarray | None, devices: int) -> tuple[dict[str, Any], ...]:
        """Returns a batch in as many parts, which follow each other."""
        if len(sequences) < devices:
            raise TrainingError(
                f"a batch of {len(sequences)} sequences cannot be shared by {devices} devices: raise "
                "training.batch_size, or use fewer of them (CUDA_VISIBLE_DEVICES)"
            )
        return tuple(self.batch(part, shuffled) for part in np.array_split(sequences, devices))

    def dataset(self, first_epoch: int, epochs: int, devices: int = 1) -> tf.data.Dataset:
        """Returns the batches of some epochs, from epoch `first_epoch` (counted from 0) on; shapes vary.

        Each element is the number of its epoch beside the parts of a batch, one for each device.

        Raises:
            TrainingError: when it is read: a batch has fewer sequences than there are devices.
        """

        def run() -> Iterator[tuple[int, tuple[dict[str, Any], ...]]]:
            for number in range(first_epoch, first_epoch + epochs):
                shuffled = self._shuffle(number)
                for sequences in self._order(number):
                    yield number, self._shared(sequences, shuffled, devices)

        return tf.data.Dataset.from_generator(
            run, output_signature=(tf.TensorSpec((), tf.int64), (self.signature,) * devices)
        ).prefetch(8)

    @property
    def signature(self) -> Mapping[str, Any]:
        """Shapes and types of a batch, None where they vary."""
        example = self.batch(np.arange(1))
        sequences = {"histories", "values", "windows", "items"}  # the second axis varies too
        return {
            name: tf.nest.map_structure(
                lambda a, known=1 + (name in sequences): tf.TensorSpec((None,) * known + a.shape[known:], a.dtype), part
            )
            for name, part in example.items()
        }


def _encode(schema: FeatureSchema, text_encoders: TextEncoders, events: Events) -> dict[str, np.ndarray]:
    """Returns the inputs of features that describe the request, for each event: each [n, ...]."""
    example = encode_inputs(schema, text_encoders, {}, 1)
    inputs = {name: spill.empty((len(events), *a.shape[1:]), a.dtype) for name, a in example.items()}
    for block in spill.blocks(len(events)):
        columns = {name: events.attributes[name][block].tolist() for name in inputs}
        for name, values in encode_inputs(schema, text_encoders, columns, block.stop - block.start).items():
            inputs[name][block] = values
    return inputs


def _count_in(mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns in how many rows from each of `starts` [m] to the next one `mask` [n] is true: [m] int64."""
    found = np.zeros(len(starts), dtype=np.int64)
    for block in spill.blocks(len(mask)):
        places = np.searchsorted(starts, np.flatnonzero(mask[block]) + block.start, side="right") - 1
        if len(places):
            found[places[0] : places[-1] + 1] += np.bincount(places - places[0])
    return found


def _seen_until(events: Events, starts: np.ndarray, lag: float) -> np.ndarray:
    """Returns [n] int64: the history of event i is made of its user's events up to row ``seen_until[i]``, without it.

    Args:
        events: sorted by user and time.
        starts: as of `Events.starts`.
        lag: see `trainer.recipe.recipe.Training.history_lag`.
    """
    until = spill.empty((len(events),), np.dtype(np.int64))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        times = events.times[start:end]
        until[start:end] = start + np.searchsorted(times, times - lag)  # the first event that is not before then
    return until


def _sequences(
    starts: np.ndarray, seen_until: np.ndarray | None, context: int, targets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, of each sequence, the rows of its first event and first target and the row behind its last one."""
    counts = -(-np.diff(starts) // targets)  # sequences of each user
    user = np.repeat(np.arange(len(starts) - 1), counts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    target = starts[user] + number * targets
    seen = target if seen_until is None else seen_until[target]
    return np.maximum(starts[user], seen - context), target, np.minimum(target + targets, starts[user + 1])
