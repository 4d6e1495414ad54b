"""Values and their slots in an embedding table."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import repeat
from struct import Struct

import numpy as np

PADDING = 0
"""Slot of a value that is absent: padding of a list, or a feature that was not sent."""

OUT_OF_VOCABULARY = 1
"""Slot of a value that training did not know."""

FIRST_VALUE = 2
"""Slot of the first value of a vocabulary."""

Value = str | int


@dataclass(frozen=True)
class Vocabulary:
    """The values that training knew, each with a slot of its own.

    Attributes:
        values: distinct, all strings or all ints. Value i has slot i + 2.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: a value stands there twice, or they are of mixed type.
        """
        if len(self._slots) != len(self.values) + 1:  # None has one too
            raise ValueError("a vocabulary holds a value twice")
        if len({type(value) for value in self.values}) > 1:
            raise ValueError("a vocabulary holds strings and ints")

    @cached_property
    def _slots(self) -> dict[Value | None, int]:
        return {None: PADDING, **{value: slot for slot, value in enumerate(self.values, FIRST_VALUE)}}

    @property
    def slot_count(self) -> int:
        """Rows that an embedding table needs: the values, padding and out-of-vocabulary."""
        return len(self.values) + FIRST_VALUE

    def slots(self, values: Iterable[Value | None]) -> array[int]:
        """Returns the slots of `values`; None is padding, an unknown value out-of-vocabulary."""
        # `map` over a C function: no step of the interpreter a value. NumPy takes an array in less time than a list.
        return array("i", map(self._slots.get, values, repeat(OUT_OF_VOCABULARY)))

    def lookup(self, values: Iterable[Value | None]) -> np.ndarray:
        """Returns the slots of `values`, as `slots` does: [n] int32."""
        return np.frombuffer(self.slots(values), dtype=np.int32)

    def value_encoder(self) -> Callable[[Value | None], np.ndarray]:
        """Returns what `lookup` is for one value, in one call: its slot, [1] int32, not to be written to."""
        get, every = self._slots.get, np.arange(self.slot_count, dtype=np.int32)
        every.flags.writeable = False

        def encode(value: Value | None) -> np.ndarray:
            slot = get(value, OUT_OF_VOCABULARY)
            return every[slot : slot + 1]

        return encode

    def list_encoder(self, cut: slice, width: int) -> Callable[[Sequence[Value]], np.ndarray]:
        """Returns what gives one list its slots, in one call: [1, width] int32, padded behind.

        Args:
            cut: of the values, those that count, at most `width`.
            width: slots.
        """
        get, unknown = self._slots.get, repeat(OUT_OF_VOCABULARY)
        shape = (1, width)

        @cache
        def packer(count: int) -> Callable[..., bytes]:
            return Struct(f"{count}i{4 * (width - count)}x").pack

        def encode(values: Sequence[Value]) -> np.ndarray:
            values = values[cut]
            return np.ndarray(shape, np.int32, packer(len(values))(*map(get, values, unknown)))

        return encode


@dataclass(frozen=True)
class Hashing:
    """Slots by hash, for values too many or too fleeting to list.

    Attributes:
        buckets: how many slots the values share.
    """

    buckets: int

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 1 <= self.buckets <= 2**24:
            raise ValueError(f"hash buckets are {self.buckets}, expected 1 to {2**24}")

    @property
    def slot_count(self) -> int:
        """Rows that an embedding table needs: the buckets, padding and out-of-vocabulary (which stays unused)."""
        return self.buckets + FIRST_VALUE

    def slots(self, values: Iterable[Value | None]) -> array[int]:
        """Returns the slots of `values`; None is padding, another value CRC-32 of its text mod buckets."""
        buckets = self.buckets
        return array(
            "i",
            (PADDING if value is None else FIRST_VALUE + zlib.crc32(str(value).encode()) % buckets for value in values),
        )

    def lookup(self, values: Iterable[Value | None]) -> np.ndarray:
        """Returns the slots of `values`, as `slots` does: [n] int32."""
        return np.frombuffer(self.slots(values), dtype=np.int32)
