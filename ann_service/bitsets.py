"""Sets of items as bitsets, and a bounded cache of them that threads share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

from retrieval.steps import Steps, run_to_end

_ENTRY_OVERHEAD_BYTES = 768
"""Size of a cache entry without the contents of its arrays, rounded up: key, objects, and its share of the cache."""

_BYTES_PER_STEP = 8192
"""Part of a bitset whose rows are gathered in one step: 65,536 items."""

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
        """Returns what `steps` returns, without a pause."""
        return run_to_end(Matches.steps(bits, item_count, with_rows=with_rows))

    @staticmethod
    def steps(bits: np.ndarray, item_count: int, *, with_rows: bool) -> Steps[Matches]:
        """Returns the matches of a bitset; yields after each step of about 1 ms at most.

        Args:
            bits: [ceil(item_count / 8)] uint8, lowest bit first.
            item_count: number of items of the catalogue.
            with_rows: whether to compute the rows now, if at most `MAX_GATHERED_SHARE` of the items match.
        """
        count = int(np.bitwise_count(bits).sum())
        if not with_rows or count > MAX_GATHERED_SHARE * item_count:
            return Matches(bits, item_count, count)
        rows = np.empty(count, dtype=np.int32)
        filled = 0
        for start in range(0, len(bits), _BYTES_PER_STEP):
            found = _rows(bits[start : start + _BYTES_PER_STEP])
            np.add(found, 8 * start, out=rows[filled : filled + len(found)], casting="same_kind")
            filled += len(found)
            yield
        return Matches(bits, item_count, count, rows)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the matching items: [count] int64 or int32, ascending."""
        return _rows(self.bits) if self.cached_rows is None else self.cached_rows

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
        self._entries: LRUCache[bytes, Matches | bytes] = LRUCache(max_bytes, getsizeof=_entry_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of all entries in bytes, never above the limit."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Matches | None:
        """Returns the matches under a key, or under the key that it is linked to; None if there are none."""
        with self._lock:
            entry = self._entries.get(key)
            if isinstance(entry, bytes):
                entry = self._entries.get(entry)
        return entry if isinstance(entry, Matches) else None

    def put(self, key: bytes, matches: Matches) -> Matches:
        """Caches `matches` under a key unless they alone exceed the size of the cache, and returns them.

        Args:
            key: key of at most 64 bytes.
            matches: matches to cache.
        """
        self._put(key, matches)
        return matches

    def link(self, key: bytes, target: bytes) -> None:
        """Makes `get` return for `key` the matches under `target`, as long as they are cached."""
        self._put(key, target)

    def _put(self, key: bytes, entry: Matches | bytes) -> None:
        with self._lock:
            if key not in self._entries and _entry_bytes(entry) <= self._entries.maxsize:
                self._entries[key] = entry


def _entry_bytes(entry: Matches | bytes) -> int:
    return _ENTRY_OVERHEAD_BYTES + (entry.size_bytes if isinstance(entry, Matches) else 0)


def _rows(bits: np.ndarray) -> np.ndarray:
    """Returns the positions of the bits that are set: [n] int64, ascending."""
    return np.flatnonzero(np.unpackbits(bits, bitorder="little").view(bool))
