"""Cuts item tables into tables of consecutive items, and joins such tables again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from retrieval.bundle.catalogue.items import (
    MISSING,
    Column,
    FloatColumn,
    IntColumn,
    ItemTable,
    StringColumn,
    StringListColumn,
)
from retrieval.bundle.catalogue.string_table import Strings


def bounds_of(item_count: int, part_count: int) -> list[tuple[int, int]]:
    """Returns first row and last row plus 1 of each of several parts of a catalogue, whose sizes differ by 1 at most.

    Args:
        item_count: number of items of the catalogue.
        part_count: number of parts, 1 to `item_count`.
    """
    edges = [item_count * number // part_count for number in range(part_count + 1)]
    return list(pairwise(edges))


def cut(table: ItemTable, start: int, stop: int) -> ItemTable:
    """Returns the table of the items `start` to `stop`."""
    return ItemTable.of(
        table.ids[start:stop], {name: _cut(column, start, stop) for name, column in table.attributes.items()}
    )


def join(tables: Sequence[ItemTable]) -> ItemTable:
    """Returns the table of the items of several tables, which have the same attributes, one after the other."""
    first = tables[0]
    ids = Strings.of(chain.from_iterable(table.ids for table in tables))
    return ItemTable(ids, {name: _join([table.attributes[name] for table in tables]) for name in first.attributes})


def _cut(column: Column, start: int, stop: int) -> Column:
    match column:
        case StringColumn():
            codes, values = _used(column.codes[start:stop], column.values)
            return StringColumn(codes, values)
        case StringListColumn():
            offsets = column.offsets[start : stop + 1]
            codes, values = _used(column.codes[offsets[0] : offsets[-1]], column.values)
            return StringListColumn(codes, offsets - offsets[0], values)
        case IntColumn():
            return IntColumn(column.numbers[start:stop], column.present[start:stop])
        case FloatColumn():
            return FloatColumn(column.numbers[start:stop])


def _used(codes: np.ndarray, values: Strings) -> tuple[np.ndarray, Strings]:
    """Returns codes, [n] int32, of a table of those strings alone that they use, and that table."""
    used = np.unique(codes)
    used = used[used != MISSING]
    recoded = np.where(codes == MISSING, MISSING, np.searchsorted(used, codes)).astype(np.int32)
    return recoded, Strings.of(values[code] for code in used)


def _join(columns: Sequence[Column]) -> Column:
    if isinstance(columns[0], StringColumn | StringListColumn):
        number_of: dict[str, int] = {}
        recoded: list[np.ndarray] = []
        for column in columns:
            assert isinstance(column, StringColumn | StringListColumn)
            numbers = [number_of.setdefault(value, len(number_of)) for value in column.values]
            recoded.append(np.array([*numbers, MISSING], dtype=np.int32)[column.codes])  # code -1 reads the last one
        codes, values = np.concatenate(recoded), Strings.of(number_of)
        if isinstance(columns[0], StringColumn):
            return StringColumn(codes, values)
        lengths = [np.diff(column.offsets) for column in columns if isinstance(column, StringListColumn)]
        return StringListColumn(
            codes, np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64), values
        )
    numbers = np.concatenate([c.numbers for c in columns if isinstance(c, IntColumn | FloatColumn)])
    if isinstance(columns[0], FloatColumn):
        return FloatColumn(numbers)
    return IntColumn(numbers, np.concatenate([c.present for c in columns if isinstance(c, IntColumn)]))
