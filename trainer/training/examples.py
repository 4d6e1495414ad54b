"""Training examples: event sequences, each event of which is the target of a query with the events before it.

A sequence is a part of one user's events, oldest first: some events that are only context, then the targets. The query
of a target consists of the events before it (with ``history_lag``, only those long enough before it) and of the
features of the user; `trainer.model.history` encodes the histories of all targets at once. With
``event_order = "shuffled"`` only the first event of a user with each item is used, in an order that is drawn in each
epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema, encode_inputs
from retrieval.bundle.features.text import TextEncoders
from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.errors import TrainingError
from trainer.features.schemas import Schemas, event_names, query_columns
from trainer.recipe.recipe import Recipe
from trainer.recipe.training import Training
from trainer.training import shuffling
from trainer.training.event_batches import EventInputs


def batch_size(training: Training, event_count: int) -> int:
    """Returns the number of targets of a training step.

    It is the batch size of the recipe, or less if an epoch of `event_count` events would have under 20 steps.
    """
    return min(training.batch_size, event_count, max(32, event_count // 20))


class Examples:
    """The training events as batches of model inputs.

    Attributes:
        count: Number of targets of an epoch.
        steps: Number of batches of an epoch.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, schemas: Schemas, train: Events, *, context: int, targets: int
    ):
        """Encodes the features of users and events, and divides the events into sequences.

        Args:
            recipe: Recipe with batch size and seed.
            dataset: Users and items.
            schemas: Feature schemas of both towers.
            train: Training events.
            context: Largest number of events before the first target of a sequence.
            targets: Largest number of targets of a sequence.
        """
        self._shuffled = recipe.training.event_order == "shuffled"
        if self._shuffled:
            train = train.where(train.is_first)
        self._events = train
        profiles = query_columns(recipe, dataset)
        schema = schemas.query
        profile_schema = schema.subset(profiles)
        self._profiles = encode_inputs(profile_schema, schemas.text_encoders, profiles, len(dataset.user_ids))
        self._contexts = _encode(schema.subset(event_names(recipe, train)), schemas.text_encoders, train)
        self._slots = {
            f.name: schema.slots(f).lookup(dataset.items.ids) for f in schema.features if isinstance(f, History)
        }
        self._values = EventInputs(recipe, schema, train, starts := train.starts(len(dataset.user_ids)))
        share = train.item_counts(len(dataset.items.ids)) / len(train)
        self._log_q = np.log(np.maximum(share, 1e-12)).astype(np.float32)
        self._seed = recipe.seed
        lag = recipe.training.history_lag
        self._history_ends = None if lag is None else _history_ends(train, starts, lag)
        self._first, self._target, self._end = _sequences(starts, self._history_ends, context, targets)
        novel = recipe.training.novel_targets and not self._shuffled  # all shuffled events are novel
        self._is_target = train.is_first if novel else None
        counts = self._end - self._target if self._is_target is None else _count_in(self._is_target, self._target)
        self.count = int(counts.sum())
        self._first, self._target, self._end = (a[counts > 0] for a in (self._first, self._target, self._end))
        self._counts = counts[counts > 0]
        self.steps = min(max(1, round(self.count / batch_size(recipe.training, self.count))), len(self._first))

    def batch(self, sequences: np.ndarray, shuffled: np.ndarray | None = None) -> dict[str, Any]:
        """Returns the examples of some sequences, which have n targets together.

        Args:
            sequences: [batch] int64, indices of the sequences.
            shuffled: [event_count] int64, rows of the training events in the order to use. Default: by user and time.

        Returns:
            - ``histories``: slots (embedding indices) of the items of each sequence by the name of the history, each
              [batch, length] int32, oldest first, right-padded.
            - ``values``: inputs of the event features by history, then event feature, each [batch, length, ...].
            - ``windows``: indices of the events in the history of each target, by the name of the history, each
              [n, max_values] int32, newest first; they count in the flattened sequences. Only histories that depend on
              the time of the request are in it; their ``histories`` and ``values`` are [n, max_values, ...], newest
              first, right-padded.
            - ``items``: [batch, length] int32, catalogue rows of the events; any row at padding.
            - ``position``: [n] int32, index in the flattened sequences at which the history of each target ends.
            - ``others``: inputs of the query tower that are not histories, by feature, each [n, ...].
            - ``user`` and ``item``: [n] int32, row numbers of the user and of the item of each target.
            - ``log_q``: [n] float32, log of the item's share of the training events.
            - ``weight``: [n] float32, weight of each target in the loss.
            - ``label``: [n] float32, relevance of the item, 0 to 1.
        """
        first, target, end = self._first[sequences], self._target[sequences], self._end[sequences]
        length = int((end - first).max())
        events = first[:, None] + np.arange(length)  # [batch, length]
        inside = events < end[:, None]
        event_rows = np.minimum(events, end[:, None] - 1)  # [batch, length]
        if shuffled is not None:
            event_rows = shuffled[event_rows]
        items = self._events.items[event_rows]  # [batch, length]
        is_target = inside & (events >= target[:, None])
        if self._is_target is not None:
            is_target &= self._is_target[event_rows]
        position = np.flatnonzero(is_target)  # [n]
        target_rows = event_rows.ravel()[position]  # [n] rows of the training events
        users, item = self._events.users[target_rows], self._events.items[target_rows]
        if self._history_ends is not None:
            # Not before the start of the sequence.
            position -= np.minimum(target_rows - self._history_ends[target_rows], position % length)
        others = {name: values[users] for name, values in self._profiles.items()}
        others |= {name: values[target_rows] for name, values in self._contexts.items()}
        histories = {name: np.where(inside, slots[items], 0).astype(np.int32) for name, slots in self._slots.items()}
        windows: dict[str, np.ndarray] = {}
        values = self._values.of_sequences(event_rows, inside)
        for name, width in self._values.window_widths.items():
            window = position[:, None] - 1 - np.arange(width)  # [n, width], in the flattened sequences
            inside_window = window >= (position - position % length)[:, None]  # not before the start of the sequence
            windows[name] = np.where(inside_window, window, 0).astype(np.int32)
            histories[name] = np.where(inside_window, histories[name].ravel()[windows[name]], 0).astype(np.int32)
            values[name] = self._values.of_windows(name, event_rows.ravel()[windows[name]], inside_window, target_rows)
        return {
            "histories": histories,
            "values": values,
            "windows": windows,
            "items": items,
            "position": position.astype(np.int32),
            "others": others,
            "user": users,
            "item": item,
            "log_q": self._log_q[item],
            "weight": self._events.weights[target_rows],
            "label": self._events.relevance[target_rows],
        }

    def epoch(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields the `steps` batches of epoch `number`, from 0: each sequence once, in a new random order per epoch."""
        shuffled = self._shuffle(number)
        return (self.batch(sequences, shuffled) for sequences in self._order(number))

    def _shuffle(self, number: int) -> np.ndarray | None:
        """Returns the random order of the events in epoch `number`: [event_count] int64; None if ordered by time."""
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

    def _device_parts(
        self, sequences: np.ndarray, shuffled: np.ndarray | None, devices: int, own: Iterable[int]
    ) -> tuple[dict[str, Any], ...]:
        """Returns the parts of a batch for some devices, in the form that `batch` returns.

        Args:
            sequences: [batch] int64, indices of the sequences.
            shuffled: Order of the events, see `batch`.
            devices: Number of devices that share the batch.
            own: Indices of the devices whose parts to return.
        """
        if len(sequences) < devices:
            raise TrainingError(
                f"a batch of {len(sequences)} sequences cannot be shared by {devices} devices: raise "
                "training.batch_size, or use fewer of them (CUDA_VISIBLE_DEVICES, or fewer workers)"
            )
        parts = np.array_split(sequences, devices)
        return tuple(self.batch(parts[device], shuffled) for device in own)

    def dataset(self, first_epoch: int, epochs: int, devices: int = 1, own: Sequence[int] = (0,)) -> tf.data.Dataset:
        """Returns the batches of several epochs as a dataset, whose shapes vary from batch to batch.

        Each element is the number of the epoch, the users of all targets of the batch, [n] int32, and a tuple with the
        parts of the batch of the own devices. Reading it raises `TrainingError` if a batch has fewer sequences than
        there are devices.

        Args:
            first_epoch: Number of the first epoch, counted from 0.
            epochs: Number of epochs.
            devices: Number of devices that share each batch.
            own: Indices of the devices whose parts of a batch this process computes.
        """

        def run() -> Iterator[tuple[int, np.ndarray, tuple[dict[str, Any], ...]]]:
            for number in range(first_epoch, first_epoch + epochs):
                shuffled = self._shuffle(number)
                for sequences in self._order(number):
                    # All events of a sequence are of one user, in any order of the events.
                    users = np.repeat(self._events.users[self._first[sequences]], self._counts[sequences])
                    yield number, users, self._device_parts(sequences, shuffled, devices, own)

        signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int32), (self.signature,) * len(own))
        return tf.data.Dataset.from_generator(run, output_signature=signature).prefetch(8)

    @property
    def signature(self) -> Mapping[str, Any]:
        """Tensor specifications of a batch, in the structure that `batch` returns; axes that vary are None."""
        example = self.batch(np.arange(1))
        sequences = {"histories", "values", "windows", "items"}  # the second axis varies too
        return {
            name: tf.nest.map_structure(
                lambda a, known=1 + (name in sequences): tf.TensorSpec((None,) * known + a.shape[known:], a.dtype), part
            )
            for name, part in example.items()
        }


def _encode(schema: FeatureSchema, text_encoders: TextEncoders, events: Events) -> dict[str, np.ndarray]:
    """Returns the encoded features that describe the request of each event, by feature, each [n, ...].

    Args:
        schema: Feature schema of the query tower.
        text_encoders: Text encoders of the schema.
        events: The n training events.
    """
    example = encode_inputs(schema, text_encoders, {}, 1)
    inputs = {name: spill.empty((len(events), *a.shape[1:]), a.dtype) for name, a in example.items()}
    for block in spill.blocks(len(events)):
        columns = {name: events.attributes[name][block].tolist() for name in inputs}
        for name, values in encode_inputs(schema, text_encoders, columns, block.stop - block.start).items():
            inputs[name][block] = values
    return inputs


def _count_in(mask: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Counts the true values of `mask` [n] in each segment; segments begin at `starts` [m], ascending: [m] int64."""
    counts = np.zeros(len(starts), dtype=np.int64)
    for block in spill.blocks(len(mask)):
        groups = np.searchsorted(starts, np.flatnonzero(mask[block]) + block.start, side="right") - 1
        if len(groups):
            counts[groups[0] : groups[-1] + 1] += np.bincount(groups - groups[0])
    return counts


def _history_ends(events: Events, starts: np.ndarray, lag: float) -> np.ndarray:
    """Returns the end of the history of each target: [n] int64, the row after the last event of the history.

    Args:
        events: Training events, sorted by user and time; each is a target.
        starts: [user_count + 1] int64, row of the first event of each user, see `Events.starts`.
        lag: Time in seconds. The history of a target holds the events that are more than this time before it; see
            `trainer.recipe.training.Training.history_lag`.
    """
    ends = spill.empty((len(events),), np.dtype(np.int64))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        times = events.times[start:end]
        ends[start:end] = start + np.searchsorted(times, times - lag)
    return ends


def _sequences(
    starts: np.ndarray, history_ends: np.ndarray | None, context: int, targets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides the events of all users into sequences.

    Args:
        starts: [user_count + 1] int64, row of the first event of each user.
        history_ends: End of the history of each event, see `_history_ends`; None if it is the event itself.
        context: Largest number of events before the first target of a sequence.
        targets: Largest number of targets of a sequence.

    Returns:
        Row of the first event, of the first target, and after the last target of each sequence: [sequence_count] int64
        each.
    """
    counts = -(-np.diff(starts) // targets)  # number of sequences of each user
    user = np.repeat(np.arange(len(starts) - 1), counts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    target = starts[user] + number * targets
    history_end = target if history_ends is None else history_ends[target]
    return np.maximum(starts[user], history_end - context), target, np.minimum(target + targets, starts[user + 1])
