"""External sort: encodes interactions as numbers and sorts them, block by block. Tables may be larger than memory.

Ids become row numbers and text attributes become codes. The events are then sorted by user and time: first they are
distributed to partitions of users, each of about a block of events, then each partition is sorted in memory. Memory
holds the distinct ids and attribute values, and one block of events.
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
from trainer.data.spill import GrowingArray


class EventEncoder:
    """Collects the interactions frame by frame, and returns them as `Events`."""

    def __init__(self) -> None:
        self._users, self._items = _Ids(), _Ids()
        self._columns = [
            GrowingArray(np.int32),
            GrowingArray(np.int32),
            GrowingArray(np.float64),
            GrowingArray(np.float32),
        ]
        self._attributes: dict[str, _Column] = {}

    def add(self, frame: pl.DataFrame) -> None:
        """Adds a frame of `trainer.data.interactions.read_events`.

        Raises:
            DataError: The folder of temporary files is full.
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
        """Distinct user ids so far, in no particular order."""
        return self._users.values

    @property
    def item_ids(self) -> pl.Series:
        """Distinct item ids so far, in no particular order."""
        return self._items.values

    def sorted(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> Events:
        """Returns all events, sorted. Nothing may be added afterwards.

        Args:
            user_ids: Ids in the order of the rows of the data set; they include all user ids of the events.
            item_ids: Ids in the order of the rows of the data set; they include all item ids of the events.
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
    """Returns the events sorted by user, then time, then their order so far."""
    counts = spill.counts(events.users, int(events.users.max()) + 1)
    before = np.cumsum(counts) - counts  # [user_count] events of the users before
    block_of = before // spill.BLOCK  # [user_count]
    blocks, first = np.unique(block_of, return_index=True)
    partition_of = np.searchsorted(blocks, block_of)  # [user_count]; a user alone may exceed a block
    starts = np.append(before[first], len(events))  # [partition_count + 1]
    unsorted = events.arrays()
    arrays = [spill.empty((len(events),), values.dtype) for values in unsorted]
    ends = starts[:-1].copy()  # [partition_count] where each partition is filled up to
    for block in spill.blocks(len(events)):
        partitions = partition_of[events.users[block]]  # [block]
        order = np.argsort(partitions, kind="stable")
        bounds = np.searchsorted(partitions[order], np.arange(len(blocks) + 1))
        parts = [values[block][order] for values in unsorted]
        for partition in np.flatnonzero(np.diff(bounds)):
            low, high = bounds[partition], bounds[partition + 1]
            for values, part in zip(arrays, parts, strict=True):
                values[ends[partition] : ends[partition] + high - low] = part[low:high]
            ends[partition] += high - low
    users, times = arrays[0], arrays[2]
    for low, high in itertools.pairwise(starts.tolist()):
        order = np.lexsort((times[low:high], users[low:high]))
        for values in arrays:
            values[low:high] = values[low:high][order]
    return events.of_arrays(arrays)


def _in_memory(events: Events) -> Events:
    """Returns the events, with attributes as plain arrays if they are few."""
    if len(events) * np.dtype(object).itemsize > spill.IN_MEMORY_BYTES:
        return events
    attributes: dict[str, Attribute] = {name: values[:] for name, values in events.attributes.items()}
    return Events(events.users, events.items, events.times, events.weights, attributes)


class _Ids:
    """Distinct ids, numbered in order of their first occurrence."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random("ids"))
        self._seen: pl.Series = pl.Series([], dtype=self._type)
        self._count = 0

    def encode(self, ids: pl.Series) -> np.ndarray:
        """Returns the number of each id: [n] int32."""
        # Polars drops the numbers of a category type with its last series, so one is kept.
        self._seen = ids.cast(self._type)
        codes = self._seen.to_physical().to_numpy().astype(np.int32)
        self._count = max(self._count, int(codes.max(initial=-1)) + 1)
        return codes

    @property
    def values(self) -> pl.Series:
        """Id of each number."""
        return pl.Series("id", np.arange(self._count, dtype=np.uint32)).cat.to(self._type).cast(pl.String)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the position of each numbered id in `ids`: [m] int32."""
        lookup = pl.DataFrame({"id": ids, "row": np.arange(len(ids), dtype=np.int32)})
        numbered = pl.DataFrame({"id": self.values})
        return numbered.join(lookup, on="id", how="left", maintain_order="left")["row"].to_numpy()


class _Column:
    """An attribute of the events, encoded as arrays of numbers."""

    def add(self, series: pl.Series) -> None:
        """Adds the values of a frame."""
        raise NotImplementedError

    def stored(self) -> Attribute:
        """Returns the values of all frames."""
        raise NotImplementedError


def _column(dtype: pl.DataType) -> _Column:
    if dtype == pl.Int64:
        return _Ints()
    return _Floats() if dtype == pl.Float64 else _Coded()


class _Ints(_Column):
    def __init__(self) -> None:
        self._values, self._is_missing = GrowingArray(np.int64), GrowingArray(bool)
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
        self._values = GrowingArray(np.float64)

    def add(self, series: pl.Series) -> None:
        self._values.append(series.fill_null(float("nan")).to_numpy())  # present values are finite

    def stored(self) -> Attribute:
        return StoredColumn((self._values.array(),), _decode_floats)


class _Coded(_Column):
    """Text or lists of text, as codes of the distinct values."""

    def __init__(self) -> None:
        self._codes = GrowingArray(np.int32)
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
        for code, value in enumerate(self._values):  # one assignment of all would make lists of equal length a matrix
            table[code] = value
        return StoredColumn((self._codes.array(),), lambda codes: table[codes])  # code -1 is the last entry, None


def _decode_ints(values: np.ndarray, is_missing: np.ndarray) -> np.ndarray:
    return np.where(is_missing, None, values.astype(object))


def _decode_floats(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), None, values.astype(object))
