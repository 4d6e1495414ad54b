"""Statistics of columns of raw values, computed block by block: vocabularies, means and standard deviations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from retrieval.bundle.features.vocabulary import Vocabulary
from trainer.data import spill
from trainer.data.events import Events
from trainer.errors import DataError

Blocks = Iterable[tuple[Sequence[Any], np.ndarray]]
"""Blocks of a column in order: raw values [n], and the number of training events of each, [n] int64."""
Column = Callable[[], Blocks]
"""Function that returns the blocks of a column, from the first block in each call."""


def whole(values: Sequence[Any], counts: np.ndarray) -> Column:
    """Returns a column of one block: raw values [n], and the number of training events of each, [n] int64."""
    return lambda: [(values, counts)]


def blocks_of(events: Events, name: str) -> Column:
    """Returns the column of an attribute of the events, with one training event for each value."""
    column = events.attributes[name]

    def read() -> Blocks:
        for block in spill.blocks(len(events)):
            yield column[block].tolist(), np.ones(block.stop - block.start, dtype=np.int64)

    return read


def mean_and_std(column: Column, name: str) -> tuple[float, float]:
    """Returns mean and standard deviation, weighted by the number of training events; both 0 if there are no values.

    Args:
        column: Column of numbers.
        name: Name of the column, for messages.

    Raises:
        DataError: The numbers are too large to be added up.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = _mean_and_std(column)
    if not (np.isfinite(mean) and np.isfinite(std)):
        raise DataError(f"{name}: its numbers are too large to be averaged; mend the column, or cap it")
    return mean, std


def _mean_and_std(column: Column) -> tuple[float, float]:
    total, events = 0.0, 0
    for values, counts in map(_present, column()):
        total, events = total + float((values * counts).sum()), events + int(counts.sum())
    mean = total / max(1, events)
    squares = sum(float(((values - mean) ** 2 * counts).sum()) for values, counts in map(_present, column()))
    return mean, float(np.sqrt(squares / max(1, events)))


def _present(block: tuple[Sequence[Any], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the present values of a block that have training events, [m] float64, and their event counts."""
    values, counts = block
    is_used = np.array([value is not None for value in values], dtype=bool) & (counts > 0)
    return np.array([value for value, used in zip(values, is_used, strict=True) if used], np.float64), counts[is_used]


def vocabulary_of(blocks: Blocks, min_count: int) -> Vocabulary:
    """Returns the values with at least `min_count` training events, sorted; each value of a list counts."""
    counts: Counter[Any] = Counter()
    for column, row_counts in blocks:
        for value, count in zip(column, row_counts.tolist(), strict=True):
            if count and value is not None:
                for single in value if isinstance(value, list | tuple) else (value,):
                    counts[single] += count
    return Vocabulary(tuple(sorted(value for value, count in counts.items() if count >= min_count)))
