"""A table of many strings in a few arrays, without a Python object for each string.

So a million strings are loaded and freed without holding the GIL for long.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

ABSENT = -1
"""Position of a string that is not in the table."""

_DECODED_AT_ONCE = 4096
"""Number of strings that an iteration decodes from one array slice."""

_COMPARED_ALONE = 32
"""Fewer strings than this are looked up one by one, since comparing all at once has a fixed cost."""


class Strings(Sequence[str]):
    """A sequence of strings in a few arrays, with a lookup by value. Immutable.

    The lookup is a binary search over sorted CRC-32 checksums, then a comparison with the strings of that checksum.
    """

    def __init__(self, utf8: np.ndarray, ends: np.ndarray, sums: np.ndarray, order: np.ndarray) -> None:
        """Takes the arrays that `to_arrays` gives.

        Args:
            utf8: [bytes] uint8, the concatenated strings.
            ends: [n] int64, end of each string in `utf8`.
            sums: [n] uint32, CRC-32 checksums of the strings, ascending.
            order: [n] int32, position of the string of each checksum.

        Raises:
            ValueError: the lengths differ.
        """
        if not len(ends) == len(sums) == len(order) or (len(ends) and int(ends[-1]) != len(utf8)):
            raise ValueError(
                f"{len(ends)} ends, {len(sums)} checksums and {len(order)} positions are not of the same strings"
            )
        self._bytes = utf8.tobytes()
        self._utf8 = np.frombuffer(self._bytes, dtype=np.uint8)
        self._sums, self._order = sums, order
        self._bounds = np.concatenate([np.zeros(1, dtype=np.int64), ends])  # [n + 1]
        self._ends = self._bounds[1:]

    @staticmethod
    def of(strings: Iterable[str]) -> Strings:
        """Returns the table of these strings."""
        encoded = [string.encode() for string in strings]
        sums = np.fromiter(map(zlib.crc32, encoded), dtype=np.uint32, count=len(encoded))
        order = np.argsort(sums, kind="stable").astype(np.int32)
        ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        return Strings(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, sums[order], order)

    def __len__(self) -> int:
        """Returns the number of strings."""
        return len(self._ends)

    def __getitem__(self, position: Any) -> Any:
        """Returns the string at a position, or a tuple of the strings of a slice."""
        if isinstance(position, slice):
            return tuple(self[p] for p in range(*position.indices(len(self))))
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} strings")
        position %= len(self)
        return self._raw(position).decode()

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Returns the sizes of the strings at `positions` in UTF-8, in bytes: [n] int64.

        Args:
            positions: [n] integers, each 0 to len - 1, or -1 for an empty string.
        """
        if not len(self):
            return np.zeros(len(positions), dtype=np.int64)
        return self._ends[positions] - self._bounds[positions]  # index -1 is the same in both, the end of the table

    def join(self, positions: np.ndarray, gaps: int | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the strings at `positions` in one array.

        Args:
            positions: [n] integers, each 0 to len - 1, or -1 for an empty string; n at least 1.
            gaps: number of bytes to leave before each string, one number or [n]; their values are arbitrary.

        Returns:
            [bytes] uint8, gaps and UTF-8; start of each string in it, [n] int64; end of each string in it, [n] int64.
        """
        lengths = self.lengths(positions)
        sizes = lengths + gaps
        ends = sizes.cumsum()
        starts = ends - lengths
        if not len(self._utf8):
            return np.zeros(int(ends[-1]), dtype=np.uint8), starts, ends
        indices = np.arange(int(ends[-1]))  # [bytes], index in the joined array
        indices += np.repeat(self._bounds[positions] - starts, sizes)  # [bytes], index in `_utf8`
        # Clipped, because the bytes of a gap would come from before the first string.
        return self._utf8.take(indices, mode="clip"), starts, ends

    def __iter__(self) -> Iterator[str]:
        """Yields the strings in order."""
        start = 0
        for first in range(0, len(self), _DECODED_AT_ONCE):
            for end in self._ends[first : first + _DECODED_AT_ONCE].tolist():
                yield self._bytes[start:end].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        """Returns whether `other` is a sequence of the same strings."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Returns the first three strings, for people to read."""
        return f"Strings({', '.join(map(repr, self[:3]))}{', …' if len(self) > 3 else ''})"

    def find(self, values: Sequence[str]) -> np.ndarray:
        """Returns the positions of `values`: [n] int64, -1 for a string that is not in the table."""
        encoded = _encode(values)
        sums = np.fromiter(map(zlib.crc32, encoded), dtype=np.uint32, count=len(encoded))
        # The search is faster with ascending checksums, since it then walks through memory in one direction.
        order = np.argsort(sums)
        ranks = np.empty(len(sums), dtype=np.int64)  # first position in `_sums` that is at least the checksum
        ranks[order] = np.searchsorted(self._sums, sums[order])
        if len(encoded) < _COMPARED_ALONE:
            resolved = [self._resolve(e, s, r) for e, s, r in zip(encoded, sums, ranks.tolist(), strict=True)]
            return np.array(resolved, dtype=np.int64)
        positions = self._compare(encoded, sums, ranks)
        # Several strings may share a checksum, and the first of them may be another string.
        for number in np.flatnonzero(positions == ABSENT).tolist():
            if ranks[number] < len(self._sums) and self._sums[ranks[number]] == sums[number]:
                positions[number] = self._resolve(encoded[number], int(sums[number]), int(ranks[number]))
        return positions

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Positions by string. For many strings, `find` is faster."""
        return _Positions(self)

    @property
    def first_duplicate(self) -> str | None:
        """A duplicated string; None if all strings are distinct."""
        shared = np.unique(self._sums[1:][self._sums[1:] == self._sums[:-1]])
        for start, end in zip(
            np.searchsorted(self._sums, shared), np.searchsorted(self._sums, shared, side="right"), strict=True
        ):
            alike = [self[int(position)] for position in self._order[start:end]]
            if len(set(alike)) < len(alike):
                return next(value for value in alike if alike.count(value) > 1)
        return None

    def to_arrays(self, prefix: str, arrays: MutableMapping[str, np.ndarray]) -> None:
        """Adds the arrays of the table to `arrays`, under names that begin with `prefix`."""
        for name in ("utf8", "ends", "sums", "order"):
            arrays[f"{prefix}/{name}"] = getattr(self, f"_{name}")

    @staticmethod
    def from_arrays(prefix: str, arrays: Mapping[str, np.ndarray]) -> Strings:
        """Returns the table whose arrays `to_arrays` added.

        Raises:
            KeyError: an array is missing.
            ValueError: the lengths differ.
        """
        return Strings(*(arrays[f"{prefix}/{name}"] for name in ("utf8", "ends", "sums", "order")))

    def _compare(self, encoded: Sequence[bytes], sums: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Returns the position of the first string with the same checksum, or -1 if it is another string: [n] int64.

        All bytes of all strings are compared in one NumPy call.

        Args:
            encoded: [n] strings in UTF-8.
            sums: [n] uint32, checksums of the strings.
            ranks: [n] int64, first position in `_sums` that is at least the checksum.
        """
        positions = np.full(len(encoded), ABSENT, dtype=np.int64)
        if not len(self):
            return positions
        ranks = np.minimum(ranks, len(self) - 1)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        rows = self._order[ranks].astype(np.int64)  # [n]
        matches = self._sums[ranks] == sums
        matches &= self._ends[rows] - self._bounds[rows] == lengths
        candidates = np.flatnonzero(matches)
        if not len(candidates):
            return positions
        rows = rows[candidates]
        positions[candidates] = rows
        values = encoded if len(candidates) == len(encoded) else [encoded[number] for number in candidates.tolist()]
        stored, _, ends = self.join(rows, 0)
        differences = np.flatnonzero(np.frombuffer(b"".join(values), dtype=np.uint8) != stored)
        positions[candidates[np.searchsorted(ends, differences, side="right")]] = ABSENT
        return positions

    def _raw(self, position: int) -> bytes:
        return self._bytes[int(self._bounds[position]) : int(self._ends[position])]

    def _resolve(self, encoded: bytes, checksum: int, rank: int) -> int:
        while rank < len(self._sums) and self._sums[rank] == checksum:
            position = int(self._order[rank])
            if self._raw(position) == encoded:
                return position
            rank += 1
        return ABSENT


def _encode(values: Sequence[str]) -> list[bytes]:
    try:
        return [*map(str.encode, values)]
    except UnicodeEncodeError:  # half of a surrogate pair: no stored string has one, but a looked-up string may
        return [value.encode("utf-8", "surrogatepass") for value in values]


class _Positions(Mapping[str, int]):
    def __init__(self, strings: Strings) -> None:
        self._strings = strings

    def __getitem__(self, value: str) -> int:
        position = int(self._strings.find([value])[0])
        if position == ABSENT:
            raise KeyError(value)
        return position

    def __iter__(self) -> Iterator[str]:
        return iter(self._strings)

    def __len__(self) -> int:
        return len(self._strings)
