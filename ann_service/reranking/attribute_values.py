"""The values of an attribute at some rows, read in parts of about the same size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retrieval.bundle.catalogue.items import MISSING, Column, FloatColumn, IntColumn, StringColumn

VALUES_PER_PART = 10_000
"""Number of values that are read at once: about half a millisecond."""


def at_row(column: Column, row: int) -> list[int] | list[float]:
    """Returns the values of an attribute at one row: codes of strings, or numbers; a list may hold a value twice."""
    match column:
        case StringColumn():
            return [] if (code := int(column.codes[row])) == MISSING else [code]
        case IntColumn() | FloatColumn():
            return [] if (value := column.at(row)) is None else [value]  # pyright: ignore[reportReturnType]
        case _:
            return column.codes[column.offsets[row] : column.offsets[row + 1]].tolist()


def parts(column: Column, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the values of an attribute at `rows`, [n] int64, in parts.

    A part is of consecutive rows with at most `VALUES_PER_PART` values together, or of one row with a longer list.

    Yields:
        Values at the rows of the part: [m] codes of strings, or numbers, each distinct one of a row once; number of
        rows of the part without a value.
    """
    match column:
        case StringColumn():
            for start in range(0, len(rows), VALUES_PER_PART):
                codes = column.codes[rows[start : start + VALUES_PER_PART]]
                known = codes[codes != MISSING]
                yield known, len(codes) - len(known)
        case IntColumn() | FloatColumn():
            for start in range(0, len(rows), VALUES_PER_PART):
                part = rows[start : start + VALUES_PER_PART]
                known = part[column.present[part]]
                yield column.numbers[known], len(part) - len(known)
        case _:
            size = max(1, len(column.values))
            ends = np.cumsum(column.offsets[rows + 1] - column.offsets[rows])  # [n]
            start = 0
            while start < len(rows):
                before = int(ends[start - 1]) if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + VALUES_PER_PART, side="right")))
                codes, counts = column.lists(rows[start:stop])
                # A list may hold a value twice.
                pairs = np.sort(np.repeat(np.arange(stop - start), counts) * size + codes)
                distinct = np.diff(pairs, prepend=-1) != 0
                yield pairs[distinct] % size, int(np.count_nonzero(counts == 0))
                start = stop
