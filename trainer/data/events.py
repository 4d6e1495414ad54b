"""Interactions as columns, in memory or on disk."""

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
"""Name among the attributes of an event of how well its item answers: no feature can have it."""


@dataclass(frozen=True, eq=False)
class StoredColumn:
    """An attribute of many events: what is on disk, and how raw values are made of it.

    It reads like [n] object, None where missing.

    Attributes:
        stored: arrays of [n].
        decode: makes raw values, [m] object, of m rows of each of them.
    """

    stored: tuple[np.ndarray, ...]
    decode: Callable[..., np.ndarray]
    dtype = np.dtype(object)

    def __len__(self) -> int:
        """Events."""
        return len(self.stored[0])

    def __getitem__(self, rows: Any) -> Any:
        """Returns the raw values of a slice or of rows [m] int64: [m] object; of one row, its value."""
        if isinstance(rows, int | np.integer):
            return self.decode(*(values[rows : rows + 1] for values in self.stored))[0]
        return self.decode(*(values[rows] for values in self.stored))

    def tolist(self) -> list[Any]:
        """Returns all raw values: they have to fit into memory."""
        return self[:].tolist()


Attribute = np.ndarray | StoredColumn


@dataclass(frozen=True)
class Events:
    """Interactions, sorted by user, then time, then row of the file.

    Many of them are on disk (`trainer.data.spill`), and no method but those that say so takes memory for all.

    Attributes:
        users: [n] int32 rows into `Dataset.user_ids`.
        items: [n] int32 rows into `Dataset.items`.
        times: [n] float64 seconds since 1970; the row where the table has no time.
        weights: [n] float32, 1 where the table has none.
        attributes: of each event, by name: [n] int64 where every event has a whole number, else object, None where
            missing. What the recipe reads of the interactions, and `hour` and `weekday` (UTC, Monday is 0) where a
            feature asks for them.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    weights: np.ndarray
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.users)

    @cached_property
    def relevance(self) -> np.ndarray:
        """How well the item of each event answers: [n] float32, 0 to 1; 1 where the table does not say."""
        if RELEVANCE not in self.attributes:
            return np.broadcast_to(np.float32(1.0), (len(self),))
        return spill.compute(len(self), np.float32, lambda block: self.attributes[RELEVANCE][block])

    @cached_property
    def answers(self) -> Events:
        """Those whose item answers at all: of relevance above 0."""
        return self if self.mismatches is None else self.where(self._is_answer)

    @cached_property
    def mismatches(self) -> Events | None:
        """Those of relevance 0: pairs that do not match. None: there are none."""
        if RELEVANCE not in self.attributes or (is_answer := self._is_answer).all():
            return None
        return self.where(~is_answer)

    @property
    def _is_answer(self) -> np.ndarray:
        return spill.compute(len(self), bool, lambda block: self.relevance[block] > 0)

    def where(self, mask: np.ndarray) -> Events:
        """Returns those at which `mask` [n] bool is true; the order stays."""
        return self.of_arrays([spill.select(values, mask) for values in self.arrays()])

    def take(self, rows: np.ndarray) -> Events:
        """Returns the events at `rows` [m] int64, in their order."""
        return self.of_arrays([spill.take(values, rows) for values in self.arrays()])

    def of(self, users: np.ndarray) -> Events:
        """Returns the events of some users, [m] distinct rows; the order stays."""
        users = np.sort(users)
        starts = self.starts(max(len(self.user_counts), int(users.max(initial=-1)) + 1))
        first, counts = starts[users], np.diff(starts)[users]
        before = np.cumsum(counts) - counts
        return self.take(np.repeat(first - before, counts) + np.arange(counts.sum()))

    def arrays(self) -> list[np.ndarray]:
        """Returns what is stored of the columns, then of the attributes: each [n]."""
        stored = (v.stored if isinstance(v, StoredColumn) else (v,) for v in self.attributes.values())
        return [self.users, self.items, self.times, self.weights, *itertools.chain.from_iterable(stored)]

    def of_arrays(self, arrays: Sequence[np.ndarray]) -> Events:
        """Returns events of the same attributes that `arrays` store, in the order of `Events.arrays`: each [m]."""
        rest = iter(arrays[4:])
        attributes: dict[str, Attribute] = {}
        for name, values in self.attributes.items():
            if isinstance(values, StoredColumn):
                attributes[name] = StoredColumn(tuple(next(rest) for _ in values.stored), values.decode)
            else:
                attributes[name] = next(rest)
        return Events(*arrays[:4], attributes)

    def blocks(self) -> Iterator[slice]:
        """Yields slices that make up all events and cut no user's in two: of about `trainer.data.spill.BLOCK` events."""
        start = 0
        while start < len(self):
            stop = start + spill.BLOCK
            end = len(self) if stop >= len(self) else int(np.searchsorted(self.users, self.users[stop - 1], "right"))
            yield slice(start, end)
            start = end

    @cached_property
    def user_counts(self) -> np.ndarray:
        """Events of each user up to the last that has any: [m] int64."""
        return spill.counts(self.users, int(self.users[-1]) + 1 if len(self) else 0)

    def starts(self, user_count: int) -> np.ndarray:
        """Returns [user_count + 1] int64: the events of user u are ``starts[u]`` to ``starts[u + 1]``."""
        starts = np.full(user_count + 1, len(self), dtype=np.int64)
        starts[0] = 0
        starts[1 : len(self.user_counts) + 1] = np.cumsum(self.user_counts)
        return starts

    @property
    def pairs(self) -> np.ndarray:
        """The distinct (user, item) pairs: [m, 2] int32, sorted."""
        width = self._width
        found = spill.Growing(np.int64)
        for block in self.blocks():
            found.append(np.unique(self.users[block].astype(np.int64) * width + self.items[block]))
        keys = found.array()
        return spill.compute(len(keys), np.int32, lambda at: np.stack(np.divmod(keys[at], width), axis=1), 2)

    @cached_property
    def pair_count(self) -> int:
        """How many distinct (user, item) pairs there are, without those that do not match."""
        first_times = self.answers.first_times
        return int(sum(np.count_nonzero(first_times[block]) for block in spill.blocks(len(first_times))))

    @cached_property
    def first_times(self) -> np.ndarray:
        """Whether the user had not met the item before: [n] bool; true of pairs that do not match."""
        if self.mismatches is not None:
            first = spill.compute(len(self), bool, lambda block: np.ones(block.stop - block.start))
            first[self._is_answer] = self.answers.first_times
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
        return int(self.items.max(initial=0)) + 1

    def item_counts(self, item_count: int) -> np.ndarray:
        """Returns how many events each item has: [item_count] int64."""
        return spill.counts(self.items, item_count)


def merge(first: Events, second: Events) -> Events:
    """Returns both, sorted by user, then time; at the same time those of `first` come before those of `second`.

    They have the same attributes.
    """
    both = list(zip(first.arrays(), second.arrays(), strict=True))
    merged = [spill.empty((len(one) + len(other),), one.dtype) for one, other in both]
    at = 0
    for here, there in _shared_blocks(first, second):
        users, times = (
            np.concatenate([getattr(first, name)[here], getattr(second, name)[there]]) for name in ("users", "times")
        )
        order = np.lexsort((times, users))
        for values, (one, other) in zip(merged, both, strict=True):
            values[at : at + len(order)] = np.concatenate([one[here], other[there]])[order]
        at += len(order)
    return first.of_arrays(merged)


def _shared_blocks(first: Events, second: Events) -> Iterator[tuple[slice, slice]]:
    """Yields slices of both that hold the same users, of about `trainer.data.spill.BLOCK` events in all."""
    user_count = max(len(first.user_counts), len(second.user_counts))
    starts, others = first.starts(user_count), second.starts(user_count)
    number = (starts + others)[:-1] // spill.BLOCK  # [user_count] of the block that a user's first event is in
    bounds = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), user_count]
    for low, high in itertools.pairwise(bounds):
        yield slice(starts[low], starts[high]), slice(others[low], others[high])
