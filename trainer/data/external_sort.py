"""Interactions made small numbers and sorted, block by block: tables larger than memory are read once.

Ids become rows of the data set, text attributes codes, and the events are sorted by user and time: first into stretches
of users that fit into memory, then each of them in memory. What is held there are the ids and distinct attribute
values, and a block of events.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import polars as pl

from trainer.data import spill
from trainer.data.events import Attribute, Events, StoredColumn
from trainer.data.interactions import ATTRIBUTE
from trainer.data.spill import Growing


class EventEncoder:
    """Takes in the interactions in frames and gives them back as `Events`."""

    def __init__(self) -> None:
        self._users, self._items = _Ids(), _Ids()
        self._columns = [Growing(np.int32), Growing(np.int32), Growing(np.float64), Growing(np.float32)]
        self._attributes: dict[str, _Column] = {}

    def add(self, frame: pl.DataFrame) -> None:
        """Takes in a frame of `trainer.data.interactions.read_events`.

        Raises:
            DataError: the folder of temporary files is full.
        """
        users, items = self._users.encode(frame["user"]), self._items.encode(frame["item"])
        times, weights = frame["time"].to_numpy(), frame["weight"].to_numpy()
        for column, values in zip(self._columns, (users, items, times, weights), strict=True):
            column.append(values)
        for name in frame.columns:
            if name.startswith(ATTRIBUTE):
                series = frame[name]
                column = self._attributes.setdefault(name.removeprefix(ATTRIBUTE), _column(series.dtype))
                column.add(series)

    @property
    def user_ids(self) -> pl.Series:
        """The distinct ids so far, in no order."""
        return self._users.values

    @property
    def item_ids(self) -> pl.Series:
        """The distinct ids so far, in no order."""
        return self._items.values

    def sorted(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> Events:
        """Returns all events; nothing may be added any more.

        Args:
            user_ids: of each row that `Events.users` may name, all ids so far among them.
            item_ids: likewise.
        """
        user_rows, item_rows = self._users.rows(user_ids), self._items.rows(item_ids)
        users, items, times, weights = (column.array() for column in self._columns)
        attributes = {name: column.stored() for name, column in self._attributes.items()}
        unsorted = Events(
            spill.compute(len(users), np.int32, lambda block: user_rows[users[block]]),
            spill.compute(len(items), np.int32, lambda block: item_rows[items[block]]),
            times,
            weights,
            attributes,
        )
        return _in_memory(_sort(unsorted))


def _sort(events: Events) -> Events:
    """Returns the events by user, then time, then as they were."""
    counts = spill.counts(events.users, int(events.users.max()) + 1)
    before = np.cumsum(counts) - counts  # [user_count]
    stretch_of = before // spill.BLOCK  # [user_count]
    stretches, first = np.unique(stretch_of, return_index=True)
    place_of = np.searchsorted(stretches, stretch_of)  # dense, where a user alone exceeds a block
    starts = np.append(before[first], len(events))
    given = events.arrays()
    arrays = [spill.empty((len(events),), values.dtype) for values in given]
    at = starts[:-1].copy()
    for block in spill.blocks(len(events)):
        places = place_of[events.users[block]]
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(len(stretches) + 1))
        parts = [values[block][order] for values in given]
        for place in np.flatnonzero(np.diff(bounds)):
            low, high = bounds[place], bounds[place + 1]
            for values, part in zip(arrays, parts, strict=True):
                values[at[place] : at[place] + high - low] = part[low:high]
            at[place] += high - low
    users, times = arrays[0], arrays[2]
    for low, high in itertools.pairwise(starts.tolist()):
        order = np.lexsort((times[low:high], users[low:high]))
        for values in arrays:
            values[low:high] = values[low:high][order]
    return events.of_arrays(arrays)


def _in_memory(events: Events) -> Events:
    """Returns the events with plain arrays of attributes where they are few."""
    if len(events) * np.dtype(object).itemsize > spill.IN_MEMORY_BYTES:
        return events
    attributes: dict[str, Attribute] = {name: values[:] for name, values in events.attributes.items()}
    return Events(events.users, events.items, events.times, events.weights, attributes)


class _Ids:
    """Distinct ids, numbered as they are met."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random("ids"))
        self._seen: pl.Series = pl.Series([], dtype=self._type)
        self._count = 0

    def encode(self, ids: pl.Series) -> np.ndarray:
        """Returns the number of each id: [n] int32."""
        # Polars forgets the numbers when no series of the type is left.
        self._seen = ids.cast(self._type)
        codes = self._seen.to_physical().to_numpy().astype(np.int32)
        self._count = max(self._count, int(codes.max(initial=-1)) + 1)
        return codes

    @property
    def values(self) -> pl.Series:
        """The id of each number."""
        return pl.Series("id", np.arange(self._count, dtype=np.uint32)).cat.to(self._type).cast(pl.String)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Returns where in `ids` that of each number stands: [m] int32."""
        lookup = pl.DataFrame({"id": ids, "row": np.arange(len(ids), dtype=np.int32)})
        met = pl.DataFrame({"id": self.values})
        return met.join(lookup, on="id", how="left", maintain_order="left")["row"].to_numpy()


class _Column:
    """An attribute of the events, in arrays of numbers."""

    def add(self, series: pl.Series) -> None:
        """Takes in the values of a frame."""
        raise NotImplementedError

    def stored(self) -> Attribute:
        """Returns all values."""
        raise NotImplementedError


def _column(dtype: pl.DataType) -> _Column:
    if dtype == pl.Int64:
        return _Ints()
    return _Floats() if dtype == pl.Float64 else _Coded()


class _Ints(_Column):
    def __init__(self) -> None:
        self._values, self._is_missing = Growing(np.int64), Growing(bool)
        self._any_missing = False

    def add(self, series: pl.Series) -> None:
        self._values.append(series.fill_null(0).to_numpy())
        self._is_missing.append(series.is_null().to_numpy())
        self._any_missing |= bool(series.null_count())

    def stored(self) -> Attribute:
        values, is_missing = self._values.array(), self._is_missing.array()
        return StoredColumn((values, is_missing), _decode_ints) if self._any_missing else values


class _Floats(_Column):
    def __init__(self) -> None:
        self._values = Growing(np.float64)

    def add(self, series: pl.Series) -> None:
        self._values.append(series.fill_null(float("nan")).to_numpy())  # what is present is finite

    def stored(self) -> Attribute:
        return StoredColumn((self._values.array(),), _decode_floats)


class _Coded(_Column):
    """Text or lists of it: each distinct value is held once."""

    def __init__(self) -> None:
        self._codes = Growing(np.int32)
        self._code_of: dict[Hashable, int] = {}
        self._values: list[Any] = []

    def add(self, series: pl.Series) -> None:
        self._codes.append(np.fromiter((self._code(value) for value in series.to_list()), np.int32, len(series)))

    def _code(self, value: Any) -> int:
        if value is None:
            return -1
        key = tuple(value) if isinstance(value, list) else value
        code = self._code_of.setdefault(key, len(self._values))
        if code == len(self._values):
            self._values.append(value)
        return code

    def stored(self) -> Attribute:
        table = np.empty(len(self._values) + 1, dtype=object)
        for at, value in enumerate(self._values):  # an assignment at once would make a matrix of equally long lists
            table[at] = value
        return StoredColumn((self._codes.array(),), lambda codes: table[codes])  # -1 is the last, None


def _decode_ints(values: np.ndarray, is_missing: np.ndarray) -> np.ndarray:
    return np.where(is_missing, None, values.astype(object))


def _decode_floats(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), None, values.astype(object))
