"""The values of an attribute at some rows, as pairs of a position and a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.bundle.catalogue.items import MISSING, Column, FloatColumn, IntColumn, StringColumn
from retrieval.bundle.catalogue.string_table import Strings


@dataclass(frozen=True, eq=False)
class AttributeValues:
    """The values of an attribute at n rows. A row has no pair if it has no value, and one pair for each distinct value.

    Attributes:
        positions: [m] int64, position of a row among the rows, ascending.
        numbers: [m] int64 or float64, value of this row, or its position in `strings`.
        strings: Table of the values; None if the numbers are the values.
    """

    positions: np.ndarray
    numbers: np.ndarray
    strings: Strings | None

    @staticmethod
    def of(column: Column, rows: np.ndarray) -> AttributeValues:
        """Returns the values of an attribute at `rows`, [n] int64."""
        match column:
            case StringColumn():
                codes = column.codes[rows]  # [n]
                positions = np.flatnonzero(codes != MISSING)
                return AttributeValues(positions, codes[positions].astype(np.int64), column.values)
            case IntColumn() | FloatColumn():
                positions = np.flatnonzero(column.present[rows])
                return AttributeValues(positions, column.numbers[rows[positions]], None)
            case _:
                codes, counts = column.lists(rows)
                size = max(1, len(column.values))
                # A list may hold a value twice.
                pairs = np.unique(np.repeat(np.arange(len(rows)), counts) * size + codes)  # [m]
                return AttributeValues(pairs // size, pairs % size, column.values)
