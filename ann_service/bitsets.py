"""Sets of items: a bit for each, and a bounded cache of them that threads share."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

_ENTRY_BYTES = 2048
"""What an entry takes beside its arrays, generously: its key, which holds the values of a condition."""

FEW_SHARE = 0.35
"""Where no more than this share of the items matches, a scan gathers them, so their rows are kept: 4 bytes each.

Where more match, reading all items in a row takes less time than gathering those that match.
"""


def pack(mask: np.ndarray) -> np.ndarray:
    """Returns the bitset of a mask, [item_count] bool: [ceil(item_count / 8)] uint8, the lowest bit first."""
    return np.packbits(mask, bitorder="little")


@dataclass(frozen=True, eq=False)
class Matches:
    """The items that a filter lets through. Immutable.

    Attributes:
        bits: [ceil(item_count / 8)] uint8, the lowest bit first; bits behind the last item are 0.
        item_count: of the catalogue.
        count: how many match.
        kept_rows: [count] int32, ascending, or None where they are made when asked for.
    """

    bits: np.ndarray
    item_count: int
    count: int
    kept_rows: np.ndarray | None = None

    @staticmethod
    def of(bits: np.ndarray, item_count: int, *, with_rows: bool) -> Matches:
        """Returns the matches of a bitset, with their rows at hand where asked and where they are few."""
        count = int(np.bitwise_count(bits).sum())
        rows = None
        if with_rows and count <= FEW_SHARE * item_count:
            rows = _rows(bits, item_count).astype(np.int32)
        return Matches(bits, item_count, count, rows)

    @property
    def rows(self) -> np.ndarray:
        """[count] int64 or int32, ascending."""
        return _rows(self.bits, self.item_count) if self.kept_rows is None else self.kept_rows

    @property
    def others(self) -> np.ndarray:
        """[item_count] bool: which do not match."""
        return np.unpackbits(~self.bits, count=self.item_count, bitorder="little").view(bool)

    @property
    def size_bytes(self) -> int:
        """Of the arrays."""
        return self.bits.nbytes + (0 if self.kept_rows is None else self.kept_rows.nbytes)

    def contain(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, match: [n] bool."""
        return (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1


class BitsetCache:
    """The matches of the conditions that were asked for last; those not used for longest go first.

    Safe for several threads. Two that miss at once both compute; that is harmless.
    """

    def __init__(self, max_bytes: int) -> None:
        """Takes the limit of all entries together; 0 keeps nothing."""
        self._lock = threading.Lock()
        self._entries: LRUCache[Hashable, Matches] = LRUCache(max_bytes, getsizeof=_entry_bytes)

    @property
    def size_bytes(self) -> int:
        """Of all entries, never above the limit."""
        return int(self._entries.currsize)

    def get(self, key: Hashable) -> Matches | None:
        """Returns the matches under a key, None where there are none."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, matches: Matches) -> Matches:
        """Keeps `matches`, where they fit, and returns them."""
        with self._lock:
            if key not in self._entries and _entry_bytes(matches) <= self._entries.maxsize:
                self._entries[key] = matches
        return matches


def _entry_bytes(matches: Matches) -> int:
    return matches.size_bytes + _ENTRY_BYTES


def _rows(bits: np.ndarray, item_count: int) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(bits, count=item_count, bitorder="little"))
