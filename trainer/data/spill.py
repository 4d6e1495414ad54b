"""Arrays that may be larger than memory: a large one lives in a file without a name, which goes with the array.

The files are in the folder that the environment variable ``TMPDIR`` names, by default that of the system. Whoever works
on such an array does it block by block. Small arrays are plain ones, and one block.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from trainer.errors import DataError

IN_MEMORY_BYTES = 2**25
"""Largest array that is held in memory: 32 MiB."""

BLOCK = 2**20
"""Rows that are worked on at once."""


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an array to be filled, in a file where it is large; objects are always in memory.

    Raises:
        DataError: the folder of temporary files has no room for it.
    """
    dtype = np.dtype(dtype)
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    if dtype.hasobject or size_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="two-tower-") as file:
            # Room that is missing has to show here: written through the map, it would kill the process.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise _no_room(size_bytes, error) from error


def blocks(count: int) -> Iterator[slice]:
    """Yields slices that make up `count` rows."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def compute(count: int, dtype: Any, make: Callable[[slice], np.ndarray], *trailing: int) -> np.ndarray:
    """Returns [count, *trailing] of a type, of which `make` gives each block."""
    made = empty((count, *trailing), dtype)
    for block in blocks(count):
        made[block] = make(block)
    return made


def take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns ``values[rows]`` of [n, ...] and [m] int64."""
    return compute(len(rows), values.dtype, lambda block: values[rows[block]], *values.shape[1:])


def select(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns ``values[mask]`` of [n, ...] and [n] bool."""
    chosen = empty((int(np.count_nonzero(mask)), *values.shape[1:]), values.dtype)
    at = 0
    for block in blocks(len(values)):
        part = values[block][mask[block]]
        chosen[at : at + len(part)] = part
        at += len(part)
    return chosen


def counts(values: np.ndarray, count: int) -> np.ndarray:
    """Returns how often each of 0 to `count` - 1 stands in `values` [n] int: [count] int64."""
    found = np.zeros(count, dtype=np.int64)
    for block in blocks(len(values)):
        found += np.bincount(values[block], minlength=count)
    return found


def ordered(values: np.ndarray) -> np.ndarray:
    """Returns `values` [n], sorted."""
    copy = compute(len(values), values.dtype, lambda block: values[block])
    copy.sort()
    return copy


class Growing:
    """An array that grows at its end, in a file as soon as it is large.

    Args:
        dtype: of the array, no objects.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._pieces: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._size_bytes = 0

    def append(self, values: np.ndarray) -> None:
        """Adds `values` [n].

        Raises:
            DataError: the folder of temporary files is full.
        """
        piece = np.ascontiguousarray(values, self._dtype)
        self._size_bytes += piece.nbytes
        if self._file is None and self._size_bytes <= IN_MEMORY_BYTES:
            self._pieces.append(piece)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="two-tower-")  # noqa: SIM115  as long as the array
                weakref.finalize(self, self._file.close)
            for part in (*self._pieces, piece):
                self._file.write(part.data)
            self._pieces.clear()
        except OSError as error:
            raise _no_room(self._size_bytes, error) from error

    def array(self) -> np.ndarray:
        """Returns [n] all values, read-only where they are in a file."""
        if self._file is None:
            return np.concatenate([np.empty(0, self._dtype), *self._pieces])
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(self._size_bytes, error) from error
        return np.asarray(np.memmap(self._file, self._dtype, "r", shape=(self._size_bytes // self._dtype.itemsize,)))


def _no_room(size_bytes: int, error: OSError) -> DataError:
    return DataError(
        f"{tempfile.gettempdir()}: no room for {size_bytes:,} bytes of encoded events ({error.strerror}); set TMPDIR "
        "to a folder of a larger disk"
    )
