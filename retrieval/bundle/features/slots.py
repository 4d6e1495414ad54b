"""Padding of lists of slots (rows of an embedding table), and range checks that several kinds of features share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from retrieval.bundle.features.vocabulary import Hashing, Vocabulary


def pad(rows: Sequence[Sequence[Any]], slots: Vocabulary | Hashing, width: int) -> np.ndarray:
    """Returns the slots of lists of at most `width` values, right-padded with 0: [len(rows), width] int32."""
    padded = np.zeros((len(rows), width), dtype=np.int32)
    if len(rows) == 1:
        # Most requests hold one query. `single_row` has faster encoders, but not for every kind.
        padded[0, : len(rows[0])] = slots.lookup(rows[0])
        return padded
    padded[filled(rows, width)] = slots.lookup(chain.from_iterable(rows))  # row-major, as chained
    return padded


def pad_numbers(rows: Sequence[Sequence[Any]], width: int) -> np.ndarray:
    """Returns lists of numbers as one array, right-padded with NaN: [len(rows), width] float64.

    Args:
        rows: lists of at most `width` numbers; None, a missing number, becomes NaN.
        width: length of the padded lists.
    """
    padded = np.full((len(rows), width), np.nan)
    padded[filled(rows, width)] = np.array(list(chain.from_iterable(rows)), dtype=np.float64)  # None becomes NaN
    return padded


def filled(rows: Sequence[Sequence[Any]], width: int) -> np.ndarray:
    """Returns the positions that hold a value when lists are right-padded: [len(rows), width] bool."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return np.arange(width) < lengths[:, None]


def check_slots(name: str, value_type: str, vocabulary: str, hash_buckets: int) -> None:
    """Checks that a feature has either a vocabulary or hash buckets, and values that are strings or ints.

    Raises:
        ValueError: it has neither or both, or the type is neither string nor int.
    """
    if value_type not in ("string", "int"):
        raise ValueError(f"feature {name}: value type {value_type!r}, expected string or int")
    if bool(vocabulary) == bool(hash_buckets):
        raise ValueError(f"feature {name}: needs a vocabulary or hash_buckets, and only one of them")


def check_max_values(name: str, max_values: int) -> None:
    """Checks the number of values that a feature reads.

    Raises:
        ValueError: it is below 1, or above what a request may carry.
    """
    if not 1 <= max_values <= 10_000:
        raise ValueError(f"feature {name}: max_values is {max_values}, expected 1 to 10000")
