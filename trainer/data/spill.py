"""Arrays that may be larger than memory: large ones are spilled to unnamed temporary files.

A file is deleted with its array. The files are in the folder that the environment variable ``TMPDIR`` names, by default
that of the system. Code works on such arrays block by block; a small array is a plain one of one block.
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
"""Largest size of an array in memory: 32 MiB."""

BLOCK = 2**20
"""Number of rows of a block."""


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an array with undefined content, in a file if it is large; arrays of objects are always in memory.

    Raises:
        DataError: The folder of temporary files has no room for it.
    """
    dtype = np.dtype(dtype)
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    if dtype.hasobject or size_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="two-tower-") as file:
            # Reserves the room: a write through the map to a full disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise _no_room(size_bytes, error) from error


def blocks(count: int) -> Iterator[slice]:
    """Yields the slices of the blocks of `count` rows, in order."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def compute(count: int, dtype: Any, make: Callable[[slice], np.ndarray], *trailing: int) -> np.ndarray:
    """Returns an array [count, *trailing] that is filled block by block with the results of `make`."""
    array = empty((count, *trailing), dtype)
    for block in blocks(count):
        array[block] = make(block)
    return array


def take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns ``values[rows]``, [m, ...], computed block by block, for values [n, ...] and rows [m] int64."""
    return compute(len(rows), values.dtype, lambda block: values[rows[block]], *values.shape[1:])


def select(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns ``values[mask]``, [m, ...], computed block by block, for values [n, ...] and mask [n] bool."""
    chosen = empty((int(np.count_nonzero(mask)), *values.shape[1:]), values.dtype)
    end = 0
    for block in blocks(len(values)):
        part = values[block][mask[block]]
        chosen[end : end + len(part)] = part
        end += len(part)
    return chosen


def counts(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the number of occurrences of each of 0 to `count` - 1 in `values` [n] int: [count] int64."""
    total = np.zeros(count, dtype=np.int64)
    for block in blocks(len(values)):
        total += np.bincount(values[block], minlength=count)
    return total


def ordered(values: np.ndarray) -> np.ndarray:
    """Returns a sorted copy of `values` [n]."""
    copy = compute(len(values), values.dtype, lambda block: values[block])
    copy.sort()
    return copy


class GrowingArray:
    """An array that grows at its end, and moves to a file when it becomes large.

    Args:
        dtype: Type of the values; objects are not supported.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._pieces: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._size_bytes = 0

    def append(self, values: np.ndarray) -> None:
        """Appends the values of an array [n] at the end.

        Raises:
            DataError: The folder of temporary files is full.
        """
        piece = np.ascontiguousarray(values, self._dtype)
        self._size_bytes += piece.nbytes
        if self._file is None and self._size_bytes <= IN_MEMORY_BYTES:
            self._pieces.append(piece)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="two-tower-")  # noqa: SIM115  open as long as the array
                weakref.finalize(self, self._file.close)
            for part in (*self._pieces, piece):
                self._file.write(part.data)
            self._pieces.clear()
        except OSError as error:
            raise _no_room(self._size_bytes, error) from error

    def array(self) -> np.ndarray:
        """Returns all values: [n], read-only if they are in a file."""
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
