"""Ids to leave out by the thousand: only those are looked up that may be among the items found."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from bundle.spans import Spans
from bundle.strings import ABSENT, Strings

_BITS = 16
"""Of a hash: an item in question and an id that have them in common may be the same."""


_FEW = 8
"""Of so many ids one at most is looked up for the items in question alone."""


class Exclusions:
    """Ids to leave out of a search. Safe for several threads.

    A lookup of every id reads all over the table of items, which takes as long as a search. So the ids are hashed as
    they came, and of these only the ones that share a hash with an item in question are looked up.
    """

    def __init__(self, items: Strings, asked: Spans, rows: np.ndarray) -> None:
        """Takes what is to be left out.

        Args:
            items: ids by row.
            asked: [n] ids, which may repeat, or be of no item.
            rows: [m] int64, rows known already, which may repeat.
        """
        self._items, self._asked, self._known = items, asked, rows

    def __len__(self) -> int:
        """How many ids and rows there are: at least as many as rows to leave out."""
        return len(self._asked) + len(self._known)

    @cached_property
    def rows(self) -> np.ndarray:
        """[m] int64, distinct, ascending: all of them."""
        return self._find(slice(None))

    def contain(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, are left out: [n] bool."""
        if len(rows) > len(self._asked):  # looking up all ids takes less time
            return among(rows, self.rows)
        marks = np.zeros(1 << _BITS, dtype=bool)
        marks[_places(self._items.spans(rows))] = True
        alike = np.flatnonzero(marks[self._asked_places])
        if len(alike) * _FEW > len(self._asked):  # looked up once for all calls
            return among(rows, self.rows)
        return among(rows, self._find(alike))

    @cached_property
    def _asked_places(self) -> np.ndarray:
        return _places(self._asked)

    def _find(self, numbers: np.ndarray | slice) -> np.ndarray:
        return distinct(np.concatenate([self._items.find_encoded(self._asked.encoded(numbers)), self._known]))


def distinct(rows: np.ndarray) -> np.ndarray:
    """Returns the rows without repeats and without `ABSENT`, ascending: [m] int64 of [n] int64."""
    rows = np.sort(rows)  # np.unique takes twenty times as long
    return rows[np.diff(rows, prepend=ABSENT) > 0]


def among(rows: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Returns which of `rows` [n] are in `some` [m], ascending: [n] bool."""
    if not len(some):
        return np.zeros(len(rows), dtype=bool)
    at = np.minimum(np.searchsorted(some, rows), len(some) - 1)
    return some[at] == rows


def _places(spans: Spans) -> np.ndarray:
    """Returns a place for each string, equal for equal ones: [n] int64, 0 to 2^_BITS - 1."""
    return (spans.hashes() >> np.uint64(64 - _BITS)).astype(np.int64)
