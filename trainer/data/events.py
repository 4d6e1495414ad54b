"""Events: the interactions of users with items as columns, in memory or on disk."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data import spill

RELEVANCE = "relevance column"
"""Name of the relevance among the attributes of events; no feature can have this name, as it contains a blank."""


@dataclass(frozen=True, eq=False)
class StoredColumn:
    """An attribute of events, stored as numbers and decoded when it is read.

    It reads like an array [n] object, None where missing.

    Attributes:
        stored: Arrays of numbers, [n] each.
        decode: Function from m rows of each stored array to raw values, [m] object.
    """

    stored: tuple[np.ndarray, ...]
    decode: Callable[..., np.ndarray]
    dtype = np.dtype(object)

    def __len__(self) -> int:
        """Number of events."""
        return len(self.stored[0])

    def __getitem__(self, rows: Any) -> Any:
        """Returns the raw values of a slice or of rows [m] int64, [m] object, or the raw value of one row."""
        if isinstance(rows, int | np.integer):
            return self.decode(*(values[rows : rows + 1] for values in self.stored))[0]
        return self.decode(*(values[rows] for values in self.stored))

    def tolist(self) -> list[Any]:
        """Returns all raw values, which have to fit into memory."""
        return self[:].tolist()


Attribute = np.ndarray | StoredColumn


@dataclass(frozen=True)
class Events:
    """Interactions, sorted by user, then time, then row of the file.

    Large columns are on disk (`trainer.data.spill`), and methods work block by block unless they say otherwise.

    Attributes:
        users: [n] int32, index of each event's user in `Dataset.user_ids`.
        items: [n] int32, index of each event's item in `Dataset.items`.
        times: [n] float64, time of each event in seconds since 1970; the row number if the table has no time.
        weights: [n] float32, weight of each event in the training loss; 1 if the table has no weight.
        attributes: Attributes by name: [n] int64 if no integer is missing, else [n] object, None where missing. They
            are those of the recipe's interactions, and ``hour`` and ``weekday`` (UTC, Monday is 0) if a feature reads
            them.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    weights: np.ndarray
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Number of events."""
        return len(self.users)

    @cached_property
    def relevance(self) -> np.ndarray:
        """Relevance of the item of each event: [n] float32, 0 to 1; 1 if the table has no relevance."""
        if RELEVANCE not in self.attributes:
            return np.broadcast_to(np.float32(1.0), (len(self),))
        return spill.compute(len(self), np.float32, lambda block: self.attributes[RELEVANCE][block])

    @cached_property
    def relevant(self) -> Events:
        """Events with relevance above 0, in the same order."""
        return self if self.irrelevant is None else self.where(self._is_relevant)

    @cached_property
    def irrelevant(self) -> Events | None:
        """Events with relevance 0, in the same order; None if there are none."""
        if RELEVANCE not in self.attributes or (is_relevant := self._is_relevant).all():
            return None
        return self.where(~is_relevant)

    @property
    def _is_relevant(self) -> np.ndarray:
        return spill.compute(len(self), bool, lambda block: self.relevance[block] > 0)

    def where(self, mask: np.ndarray) -> Events:
        """Returns the events at which `mask` [n] bool is true, in the same order."""
        return self.of_arrays([spill.select(values, mask) for values in self.arrays()])

    def take(self, rows: np.ndarray) -> Events:
        """Returns the events at `rows` [m] int64, in the order of `rows`."""
        return self.of_arrays([spill.take(values, rows) for values in self.arrays()])

    def of_users(self, users: np.ndarray) -> Events:
        """Returns the events of some users in unchanged order; `users` [m] int are distinct row numbers of users."""
        users = np.sort(users)
        starts = self.starts(max(len(self.user_counts), int(users.max(initial=-1)) + 1))
        first, counts = starts[users], np.diff(starts)[users]
        before = np.cumsum(counts) - counts
        return self.take(np.repeat(first - before, counts) + np.arange(counts.sum()))

    def arrays(self) -> list[np.ndarray]:
        """Returns the stored arrays of users, items, times and weights, then those of the attributes: [n] each."""
        stored = (v.stored if isinstance(v, StoredColumn) else (v,) for v in self.attributes.values())
        return [self.users, self.items, self.times, self.weights, *itertools.chain.from_iterable(stored)]

    def of_arrays(self, arrays: Sequence[np.ndarray]) -> Events:
        """Returns events with the same attributes from stored arrays, [m] each, in the order of `Events.arrays`."""
        rest = iter(arrays[4:])
        attributes: dict[str, Attribute] = {}
        for name, values in self.attributes.items():
            if isinstance(values, StoredColumn):
                attributes[name] = StoredColumn(tuple(next(rest) for _ in values.stored), values.decode)
            else:
                attributes[name] = next(rest)
        return Events(*arrays[:4], attributes)

    def blocks(self) -> Iterator[slice]:
        """Yields slices of about `spill.BLOCK` events, in order, each with all events of its users."""
        start = 0
        while start < len(self):
            stop = start + spill.BLOCK
            end = len(self) if stop >= len(self) else int(np.searchsorted(self.users, self.users[stop - 1], "right"))
            yield slice(start, end)
            start = end

    @cached_property
    def user_counts(self) -> np.ndarray:
        """Number of events of each user, up to the last user that has any: [m] int64."""
        return spill.counts(self.users, int(self.users[-1]) + 1 if len(self) else 0)

    def starts(self, user_count: int) -> np.ndarray:
        """Returns the row of the first event of each user: [user_count + 1] int64.

        The events of user u are the rows ``starts[u]:starts[u + 1]``.
        """
        starts = np.full(user_count + 1, len(self), dtype=np.int64)
        starts[0] = 0
        starts[1 : len(self.user_counts) + 1] = np.cumsum(self.user_counts)
        return starts

    @property
    def pairs(self) -> np.ndarray:
        """Distinct (user, item) pairs: [m, 2] int32, sorted."""
        width, distinct = self._width, spill.GrowingArray(np.int64)
        for block in self.blocks():
            distinct.append(np.unique(self.users[block].astype(np.int64) * width + self.items[block]))
        keys = distinct.array()
        return spill.compute(len(keys), np.int32, lambda block: np.stack(np.divmod(keys[block], width), axis=1), 2)

    @cached_property
    def pair_count(self) -> int:
        """Number of distinct (user, item) pairs among the events with relevance above 0."""
        is_first = self.relevant.is_first
        return int(sum(np.count_nonzero(is_first[block]) for block in spill.blocks(len(is_first))))

    @cached_property
    def is_first(self) -> np.ndarray:
        """Whether each event is its user's first with the item: [n] bool; true for events of relevance 0."""
        if self.irrelevant is not None:
            first = spill.compute(len(self), bool, lambda block: np.ones(block.stop - block.start))
            first[self._is_relevant] = self.relevant.is_first
            return first
        width = self._width
        first = spill.empty((len(self),), bool)
        for block in self.blocks():
            keys = self.users[block].astype(np.int64) * width + self.items[block]
            part = np.zeros(len(keys), dtype=bool)
            part[np.unique(keys, return_index=True)[1]] = True
            first[block] = part
        return first

    @property
    def _width(self) -> int:
        """Number of items up to the last that has an event; user * width + item is unique for each pair."""
        return int(self.items.max(initial=0)) + 1

    def item_counts(self, item_count: int) -> np.ndarray:
        """Returns the number of events of each item: [item_count] int64."""
        return spill.counts(self.items, item_count)


def merge(first: Events, second: Events) -> Events:
    """Returns the events of two sets with the same attributes as one, sorted by user, then time.

    Of a user's events at the same time, those of `first` come first.
    """
    both = list(zip(first.arrays(), second.arrays(), strict=True))
    merged = [spill.empty((len(one) + len(other),), one.dtype) for one, other in both]
    end = 0
    for block, other_block in _shared_blocks(first, second):
        users = np.concatenate([first.users[block], second.users[other_block]])
        times = np.concatenate([first.times[block], second.times[other_block]])
        order = np.lexsort((times, users))
        for values, (one, other) in zip(merged, both, strict=True):
            values[end : end + len(order)] = np.concatenate([one[block], other[other_block]])[order]
        end += len(order)
    return first.of_arrays(merged)


def _shared_blocks(first: Events, second: Events) -> Iterator[tuple[slice, slice]]:
    """Yields pairs of slices, of `first` and of `second`, that hold all events of the same users.

    Both slices together have about `trainer.data.spill.BLOCK` events.
    """
    user_count = max(len(first.user_counts), len(second.user_counts))
    starts, others = first.starts(user_count), second.starts(user_count)
    number = (starts + others)[:-1] // spill.BLOCK  # [user_count] block of each user's first event
    bounds = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), user_count]
    for low, high in itertools.pairwise(bounds):
        yield slice(starts[low], starts[high]), slice(others[low], others[high])
