"""Values and their slots: the rows of an embedding table."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np

PADDING = 0
"""Slot of a missing value: padding of a list, or a feature that was not sent."""

OUT_OF_VOCABULARY = 1
"""Slot of a value that is not in the vocabulary."""

FIRST_VALUE = 2
"""Slot of the first value of a vocabulary, and of the first hash bucket."""

Value = str | int


@dataclass(frozen=True)
class Vocabulary:
    """The values that are frequent enough in the training data, each with a slot of its own.

    Attributes:
        values: Distinct values, all strings or all ints. Value i has slot i + 2.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: a value is duplicated, or there are strings and ints.
        """
        if len(set(self.values)) != len(self.values):
            raise ValueError("a value of the vocabulary is duplicated")
        if len({type(value) for value in self.values}) > 1:
            raise ValueError("a vocabulary holds strings and ints")

    @cached_property
    def slot_by_value(self) -> Mapping[Value | None, int]:
        """Slots of the values, and of None and the empty string, which are missing values."""
        return {None: PADDING, "": PADDING, **{value: slot for slot, value in enumerate(self.values, FIRST_VALUE)}}

    @property
    def slot_count(self) -> int:
        """Number of rows of an embedding table: the values, padding and out-of-vocabulary."""
        return len(self.values) + FIRST_VALUE

    def lookup(self, values: Iterable[Value | None]) -> np.ndarray:
        """Returns the slots of `values`, [n] int32: padding for None and "", out-of-vocabulary for an unknown value."""
        # `map` over a C function runs no bytecode for each value.
        return np.frombuffer(array("i", map(self.slot_by_value.get, values, repeat(OUT_OF_VOCABULARY))), dtype=np.int32)


@dataclass(frozen=True)
class Hashing:
    """Slots by hash, for values that are too many or too short-lived for a vocabulary.

    Attributes:
        buckets: Number of slots that the values share.
    """

    buckets: int

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        if not 1 <= self.buckets <= 2**24:
            raise ValueError(f"hash buckets are {self.buckets}, expected 1 to {2**24}")

    @property
    def slot_count(self) -> int:
        """Number of rows of an embedding table: the buckets, padding and out-of-vocabulary (which is never used)."""
        return self.buckets + FIRST_VALUE

    def lookup(self, values: Iterable[Value | None]) -> np.ndarray:
        """Returns the slots of `values`, [n] int32: padding for None and "", else CRC-32 of the text mod buckets."""
        buckets = self.buckets
        return np.array(
            [
                PADDING if value is None or value == "" else FIRST_VALUE + zlib.crc32(str(value).encode()) % buckets
                for value in values
            ],
            dtype=np.int32,
        )
