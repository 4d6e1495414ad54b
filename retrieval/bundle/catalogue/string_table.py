"""Many strings without an object for each: a million of them load, and go away, without holding up other threads."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

ABSENT = -1
"""Position of a string that is not there."""

_DECODED_AT_ONCE = 4096

_COMPARED_ALONE = 32
"""Fewer strings than this are looked up one by one: setting up the comparison of all at once takes longer."""


class Strings(Sequence[str]):
    """A sequence of strings in a few arrays, with a lookup by value. Immutable.

    The lookup is a binary search over sorted CRC-32 sums, then a comparison of the strings that share the sum.
    """

    def __init__(self, utf8: np.ndarray, ends: np.ndarray, sums: np.ndarray, order: np.ndarray) -> None:
        """Takes the arrays that `to_arrays` gives.

        Args:
            utf8: [bytes] uint8, all strings end to end.
            ends: [n] int64, where each ends.
            sums: [n] uint32, the CRC-32 sums, ascending.
            order: [n] int32, the position of the string of each sum.

        Raises:
            ValueError: the lengths disagree.
        """
        if not len(ends) == len(sums) == len(order) or (len(ends) and int(ends[-1]) != len(utf8)):
            raise ValueError(
                f"{len(ends)} ends, {len(sums)} sums and {len(order)} positions are not of the same strings"
            )
        self._bytes = utf8.tobytes()
        self._utf8 = np.frombuffer(self._bytes, dtype=np.uint8)
        self._sums, self._order = sums, order
        self._bounds = np.concatenate([np.zeros(1, dtype=np.int64), ends])  # [n + 1]
        self._ends = self._bounds[1:]

    @staticmethod
    def of(strings: Iterable[str]) -> Strings:
        """Returns these strings."""
        encoded = [string.encode() for string in strings]
        sums = np.fromiter(map(zlib.crc32, encoded), dtype=np.uint32, count=len(encoded))
        order = np.argsort(sums, kind="stable").astype(np.int32)
        ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)
        return Strings(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, sums[order], order)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends)

    def __getitem__(self, position: Any) -> Any:
        """Returns one string, or a tuple of those of a slice."""
        if isinstance(position, slice):
            return tuple(self[p] for p in range(*position.indices(len(self))))
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} strings")
        position %= len(self)
        return self._raw(position).decode()

    def take(self, positions: np.ndarray) -> list[str]:
        """Returns the strings at `positions`: [n] int64, each 0 to len - 1."""
        starts, ends = self._bounds[positions].tolist(), self._ends[positions].tolist()
        return [self._bytes[start:end].decode() for start, end in zip(starts, ends, strict=True)]

    def join(self, positions: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the strings at `positions` in one array, without an object for each.

        Args:
            positions: [n] int64, each 0 to len - 1, n at least 1.
            gap: bytes to leave before each string, of any value.

        Returns:
            [bytes] uint8, gaps and UTF-8; and where each string starts and ends in it, each [n] int64.
        """
        froms = self._bounds[positions]
        sizes = self._ends[positions] - froms
        ends = (sizes + gap).cumsum()
        starts = ends - sizes
        at = np.arange(int(ends[-1]))  # [bytes], turned into where each comes from
        at += np.repeat(froms - starts, sizes + gap)
        # Clipped, since what stands in a gap comes from before its string, which may be before all bytes.
        return self._utf8.take(at, mode="clip"), starts, ends

    def __iter__(self) -> Iterator[str]:
        """Yields all, in order."""
        start = 0
        for first in range(0, len(self), _DECODED_AT_ONCE):
            for end in self._ends[first : first + _DECODED_AT_ONCE].tolist():
                yield self._bytes[start:end].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        """Compares with any sequence of strings."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Shows the first few."""
        return f"Strings({', '.join(map(repr, self[:3]))}{', …' if len(self) > 3 else ''})"

    def find(self, values: Sequence[str]) -> np.ndarray:
        """Returns the positions of `values`: [n] int64, -1 for one that is not there."""
        encoded = _encode(values)
        sums = np.fromiter(map(zlib.crc32, encoded), dtype=np.uint32, count=len(encoded))
        # Ascending, so that the search walks through the sums once instead of jumping over them.
        order = np.argsort(sums)
        at = np.empty(len(sums), dtype=np.int64)
        at[order] = np.searchsorted(self._sums, sums[order])
        if len(encoded) < _COMPARED_ALONE:
            found = [self._resolve(e, s, a) for e, s, a in zip(encoded, sums, at.tolist(), strict=True)]
            return np.array(found, dtype=np.int64)
        positions = self._compare(encoded, sums, at)
        # Where several strings share a sum, the first of them may not be the one.
        for number in np.flatnonzero(positions == ABSENT).tolist():
            if at[number] < len(self._sums) and self._sums[at[number]] == sums[number]:
                positions[number] = self._resolve(encoded[number], int(sums[number]), int(at[number]))
        return positions

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Position by string; for many at once `find` is faster."""
        return _Positions(self)

    @property
    def first_duplicate(self) -> str | None:
        """A string that stands there twice; None where all are distinct."""
        shared = np.unique(self._sums[1:][self._sums[1:] == self._sums[:-1]])
        for start, end in zip(
            np.searchsorted(self._sums, shared), np.searchsorted(self._sums, shared, side="right"), strict=True
        ):
            alike = [self[int(position)] for position in self._order[start:end]]
            if len(set(alike)) < len(alike):
                return next(value for value in alike if alike.count(value) > 1)
        return None

    def to_arrays(self, prefix: str, arrays: MutableMapping[str, np.ndarray]) -> None:
        """Adds its arrays to `arrays`, the names below `prefix`."""
        for name in ("utf8", "ends", "sums", "order"):
            arrays[f"{prefix}/{name}"] = getattr(self, f"_{name}")

    @staticmethod
    def from_arrays(prefix: str, arrays: Mapping[str, np.ndarray]) -> Strings:
        """Returns what `to_arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: the lengths disagree.
        """
        return Strings(*(arrays[f"{prefix}/{name}"] for name in ("utf8", "ends", "sums", "order")))

    def _compare(self, encoded: Sequence[bytes], sums: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Returns the position of the first string of the same sum where it is the same string, else -1: [n] int64.

        All bytes of all strings are compared at once, without a step of Python for each.

        Args:
            encoded: [n] strings.
            sums: [n] uint32, theirs.
            at: [n] int64, where each sum stands, or would stand.
        """
        positions = np.full(len(encoded), ABSENT, dtype=np.int64)
        if not len(self):
            return positions
        at = np.minimum(at, len(self) - 1)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        rows = self._order[at].astype(np.int64)
        alike = self._sums[at] == sums
        alike &= self._ends[rows] - self._bounds[rows] == lengths
        candidates = np.flatnonzero(alike)
        if not len(candidates):
            return positions
        rows = rows[candidates]
        positions[candidates] = rows
        asked = encoded if len(candidates) == len(encoded) else [encoded[number] for number in candidates.tolist()]
        stored, _, ends = self.join(rows, 0)
        others = np.flatnonzero(np.frombuffer(b"".join(asked), dtype=np.uint8) != stored)
        positions[candidates[np.searchsorted(ends, others, side="right")]] = ABSENT
        return positions

    def _raw(self, position: int) -> bytes:
        return self._bytes[int(self._bounds[position]) : int(self._ends[position])]

    def _resolve(self, encoded: bytes, sum_: int, at: int) -> int:
        while at < len(self._sums) and self._sums[at] == sum_:
            position = int(self._order[at])
            if self._raw(position) == encoded:
                return position
            at += 1
        return ABSENT


def _encode(values: Sequence[str]) -> list[bytes]:
    try:
        return [*map(str.encode, values)]
    except UnicodeEncodeError:  # half a surrogate pair, which no string here holds, but which may be asked for
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
