"""Walks through the sections of a FAISS file before FAISS reads it.

FAISS believes the lengths in a file. If it maps a file that is cut within a number, or in which a length is wrong, it
may read beyond the end or ask for more memory than there is, which ends the process.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

HEADER = "4siqqqBi"
"""Header of an index: four letters of the kind, dimension, item count, two unused numbers, is_trained, metric."""
_LENGTH = "Q"
_QUANTISER = "iifQQ"
"""Kind, two numbers that set the range, dimension, bytes of a vector; the ranges of the dimensions follow."""
_GRAPH_NUMBERS = (8, 4, 4, 8, 4)
"""Bytes of a number of each array of a graph: probabilities, neighbours by level, levels, offsets, neighbours."""


def check_length(path: Path) -> None:
    """Checks that a file of inverted lists or of a graph is as long as the lengths in it say.

    Args:
        path: index file that begins with the letters of one of the kinds that `retrieval.index.faiss_build` writes.

    Raises:
        ValueError: the file ends before a section does, or goes on after the last one.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        walk = _Walk(file, path.stat().st_size)
        letters = walk.take(HEADER)[0]
        if letters.startswith(b"IHN"):
            for number_bytes in _GRAPH_NUMBERS:
                walk.skip_array(number_bytes)
            walk.take("5i")  # where a search begins, and its parameters
            walk.skip_vectors()
        else:
            walk.take("QQ")  # number of lists, and of those that are scanned
            walk.skip_vectors()  # the centroids
            walk.take("B")  # whether rows can be found by id; if so, the array says where
            walk.skip_array(8)
            if letters == b"IwSq":
                walk.skip_quantiser()
                walk.take("QB")
            walk.skip_lists()
        walk.check_end()


class _Walk:
    """A position in a file, which never goes beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def take(self, numbers: str) -> tuple[Any, ...]:
        """Returns the next numbers, described as for the module `struct`."""
        form = struct.Struct("<" + numbers)
        self._check_left(form.size)
        return form.unpack(self._file.read(form.size))

    def skip_array(self, number_bytes: int) -> None:
        self._skip(self.take(_LENGTH)[0] * number_bytes)

    def skip_quantiser(self) -> None:
        self.take(_QUANTISER)
        self.skip_array(4)

    def skip_vectors(self) -> None:
        """Skips an index that holds nothing but vectors."""
        if self.take(HEADER)[0] == b"IxSQ":
            self.skip_quantiser()
            self.skip_array(1)
        else:
            self.skip_array(4)

    def skip_lists(self) -> None:
        letters, _, code_bytes, form = self.take("4sQQ4s")
        if letters != b"ilar":  # lists on disk name another file to read them from
            raise ValueError(f"its lists are {letters!r}, expected b'ilar': lists in the file itself")
        count = self.take(_LENGTH)[0]
        self._check_left(8 * count)
        numbers = np.frombuffer(self._file.read(8 * count), dtype="<u8").tolist()
        sizes = numbers[1::2] if form == b"sprs" else numbers  # if many lists are empty, number and size of the others
        self._skip(sum(sizes) * (code_bytes + 8))

    def check_end(self) -> None:
        if (left := self._size - self._file.tell()) > 0:
            raise ValueError(f"{left:,} bytes follow its last section: a damaged file")

    def _skip(self, size: int) -> None:
        self._check_left(size)
        self._file.seek(size, 1)

    def _check_left(self, size: int) -> None:
        position = self._file.tell()
        if size > self._size - position:
            raise ValueError(
                f"it has {self._size:,} bytes, but the section at byte {position:,} takes {size:,}: a truncated or "
                "damaged file"
            )
