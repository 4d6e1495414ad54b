"""List attributes that count the values which are read from them, so that tests can bound the work of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from retrieval.bundle.catalogue.items import StringListColumn
from retrieval.steps import Steps


class Reads(NamedTuple):
    """How many values of attributes were read.

    Attributes:
        total: Number of values.
        largest: Largest number of values between two pauses.
    """

    total: int
    largest: int


class _CountedCodes(np.ndarray):
    """Codes that count how many of them were read by an index."""

    read_count = 0

    def __getitem__(self, index: Any) -> Any:
        found = np.asarray(self)[index]
        self.read_count += found.size
        return found


def counted_lists(lists: Sequence[Sequence[str]]) -> StringListColumn:
    """Returns the attribute of these lists, for `reads_of`."""
    column = StringListColumn.of(lists)
    return replace(column, codes=column.codes.view(_CountedCodes))


def reads_of(steps: Steps[Any], columns: Sequence[StringListColumn]) -> Reads:
    """Runs work to its end and returns what it read of `columns`, made by `counted_lists`."""

    def count() -> int:
        return sum(column.codes.read_count for column in columns)  # pyright: ignore[reportAttributeAccessIssue]

    first = count()
    counts = [first, *(count() for _ in steps), count()]
    return Reads(counts[-1] - first, int(np.diff(counts).max()))
