"""Strings as stretches of one array of bytes: thousands are hashed without a step of Python for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_HASHED = 128
"""Bytes of a string that its hash depends on, beside its size; they take a step for every eight."""

PADDING = _HASHED
"""Bytes that have to follow the last string, so that words can be read as if it were as long as any."""

_WORD = 8
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], dtype=np.uint64)
"""The first bytes of a word, by how many."""

_MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: neighbours are spread evenly over the top bits (Knuth 1973, 6.4)."""

_FACTOR = np.uint64(_MULTIPLIER)

_HALF = np.uint64(32)
_NEARLY_ALL = 0.8


@dataclass(frozen=True, eq=False)
class Spans:
    """Strings in an array of bytes. Immutable.

    Attributes:
        utf8: [bytes] uint8, of which the last `PADDING` belong to no string.
        starts: [n] int64, where each starts.
        ends: [n] int64, where each ends.
    """

    utf8: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.starts)

    def encoded(self, numbers: np.ndarray | slice) -> list[bytes]:
        """Returns the strings of these numbers, [m] int64, each as an object."""
        utf8 = self.utf8.tobytes()  # of which a slice takes a third of the time
        return [
            utf8[start:end]
            for start, end in zip(self.starts[numbers].tolist(), self.ends[numbers].tolist(), strict=True)
        ]

    def hashes(self) -> np.ndarray:
        """Returns a hash of each string: [n] uint64, of which the top bits are the best. Equal strings have equal ones.

        A word of eight bytes after the other is mixed in, of those strings that are so long.
        """
        sizes = self.ends - self.starts
        hashes = sizes.astype(np.uint64)
        for offset in range(0, min(_HASHED, int(sizes.max(initial=0))), _WORD):
            reach = sizes > offset
            # Where nearly all are so long, an empty word costs less than picking those that are not.
            every = np.count_nonzero(reach) > _NEARLY_ALL * len(self)
            which: Any = slice(None) if every else np.flatnonzero(reach)
            masks = _MASKS.take(sizes[which] - offset, mode="clip")
            mixed = self._words(self.starts[which] + offset) & masks
            # An odd factor for each place, so that the order of words counts; an empty word has to add nothing.
            mixed *= np.uint64(_MULTIPLIER + 2 * offset)
            mixed ^= mixed >> _HALF  # what the top bits of a word have changed has to reach all bits
            hashes[which] += mixed * _FACTOR
        return hashes * _FACTOR

    def _words(self, places: np.ndarray) -> np.ndarray:
        """Returns the eight bytes from each of `places` on: [n] uint64 of [n] int64."""
        count = len(self.utf8) - _WORD + 1
        return np.ndarray((count,), dtype="<u8", buffer=self.utf8, strides=(1,))[places]  # they overlap, unaligned
