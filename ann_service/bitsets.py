"""Sets of items as bitsets, and a bounded cache of them that threads share."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

_ENTRY_OVERHEAD_BYTES = 2048
"""Generous estimate of the size of a cache entry without its arrays: its key has the values of a condition."""

MAX_GATHERED_SHARE = 0.35
"""Largest share of matching items for which a scan gathers their rows; the rows are then cached, 4 bytes each.

If more items match, reading all rows in sequence takes less time than gathering those that match.
"""


def pack(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, [item_count] bool, as a bitset: [ceil(item_count / 8)] uint8, lowest bit first."""
    return np.packbits(mask, bitorder="little")


@dataclass(frozen=True, eq=False)
class Matches:
    """The items that match a filter. Immutable.

    Attributes:
        bits: Bitset, [ceil(item_count / 8)] uint8, lowest bit first; bits after the last item are 0.
        item_count: Number of items of the catalogue.
        count: Number of items that match.
        cached_rows: [count] int32, rows of the matching items, ascending; None: `rows` computes them at each use.
    """

    bits: np.ndarray
    item_count: int
    count: int
    cached_rows: np.ndarray | None = None

    @staticmethod
    def of(bits: np.ndarray, item_count: int, *, with_rows: bool) -> Matches:
        """Returns the matches of a bitset.

        Args:
            bits: [ceil(item_count / 8)] uint8, lowest bit first.
            item_count: number of items of the catalogue.
            with_rows: whether to compute the rows now, if at most `MAX_GATHERED_SHARE` of the items match.
        """
        count = int(np.bitwise_count(bits).sum())
        rows = None
        if with_rows and count <= MAX_GATHERED_SHARE * item_count:
            rows = _rows(bits, item_count).astype(np.int32)
        return Matches(bits, item_count, count, rows)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the matching items: [count] int64 or int32, ascending."""
        return _rows(self.bits, self.item_count) if self.cached_rows is None else self.cached_rows

    @property
    def complement(self) -> np.ndarray:
        """Mask of the items that do not match: [item_count] bool, a new array each time."""
        return np.unpackbits(~self.bits, count=self.item_count, bitorder="little").view(bool)

    @property
    def size_bytes(self) -> int:
        """Size of the arrays in bytes."""
        return self.bits.nbytes + (0 if self.cached_rows is None else self.cached_rows.nbytes)

    def contains(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, match: [n] bool."""
        return (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1


class BitsetCache:
    """A cache of the matches of recent filters and of their conditions; drops the least recently used entries first.

    Safe for several threads. Two threads that miss the same key at once both compute it, which is harmless.
    """

    def __init__(self, max_bytes: int) -> None:
        """Makes an empty cache.

        Args:
            max_bytes: largest size of all entries together, in bytes; 0 caches nothing.
        """
        self._lock = threading.Lock()
        self._entries: LRUCache[Hashable, Matches] = LRUCache(max_bytes, getsizeof=_entry_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of all entries in bytes, never above the limit."""
        return int(self._entries.currsize)

    def get(self, key: Hashable) -> Matches | None:
        """Returns the cached matches of a key; None if the key is not in the cache."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: Hashable, matches: Matches) -> Matches:
        """Caches `matches` under a key unless they alone exceed the size of the cache, and returns them."""
        with self._lock:
            if key not in self._entries and _entry_bytes(matches) <= self._entries.maxsize:
                self._entries[key] = matches
        return matches


def _entry_bytes(matches: Matches) -> int:
    return matches.size_bytes + _ENTRY_OVERHEAD_BYTES


def _rows(bits: np.ndarray, item_count: int) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(bits, count=item_count, bitorder="little"))
