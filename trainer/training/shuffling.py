"""The order of an epoch: shuffled, and yet read from disk in stretches.

The sequences of few events are shuffled as a whole. Of many, the events are dealt with in shards, stretches of the
file: an epoch takes the shards in a random order, so many at a time that they fit into memory, and shuffles the
sequences and then the batches of these. A batch so mixes sequences of at least `BUFFER_EVENTS` / `SHARD_EVENTS` shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

BUFFER_EVENTS = 2**22
"""Events that are mixed at once: some 100 MB of the file."""
SHARD_EVENTS = 2**16
"""Events of a stretch that is read in one go: some MB of the file."""
_SORTED_BATCHES = 16
"""Sequences of so many batches are sorted by length before they are cut, so that little of a batch is padding."""


def batches(
    first: np.ndarray, lengths: np.ndarray | None, counts: np.ndarray, steps: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields `steps` batches of about as many targets each, every sequence in one of them: each [n] int64.

    Args:
        first: [m] int64, ascending: the row of the first event of each sequence.
        lengths: [m] int64, events of each sequence, by which they are sorted a little; None: not at all.
        counts: [m] int64, targets of each sequence, above 0.
        steps: at most m.
        generator: decides the order.
    """
    groups = _groups(first, generator)
    if lengths is not None:
        block = -(-len(first) * _SORTED_BATCHES // steps)
        groups = [_sorted_in_blocks(group, lengths, block) for group in groups]
    order = np.concatenate(groups)
    # Cut where the targets so far pass a multiple of the batch size.
    passed = np.cumsum(counts[order])
    cuts = np.searchsorted(passed, passed[-1] * np.arange(1, steps) / steps)
    # No batch is empty, however long a sequence is.
    ahead = np.arange(1, steps)
    cuts = np.clip(np.maximum.accumulate(cuts - ahead) + ahead, ahead, len(order) - steps + ahead)
    bounds = [0, *cuts.tolist(), len(order)]
    ends = np.cumsum([len(group) for group in groups])
    of_group = np.searchsorted(np.append(ends[:-1], np.inf), bounds[:-1], side="right")  # [steps] of the first sequence
    for low, high in itertools.pairwise(np.searchsorted(of_group, np.arange(len(groups) + 1)).tolist()):
        for at in generator.permutation(high - low) + low:
            yield order[bounds[at] : bounds[at + 1]]


def _groups(first: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Returns the sequences, all of them once, in groups that are shuffled: each [n] int64."""
    if not len(first) or first[-1] < BUFFER_EVENTS:
        return [generator.permutation(len(first))]
    shards = np.split(np.arange(len(first)), np.flatnonzero(np.diff(first // SHARD_EVENTS)) + 1)
    drawn = generator.permutation(len(shards)).tolist()
    step = max(1, BUFFER_EVENTS // SHARD_EVENTS)
    return [
        generator.permutation(np.concatenate([shards[at] for at in drawn[start : start + step]]))
        for start in range(0, len(drawn), step)
    ]


def _sorted_in_blocks(order: np.ndarray, lengths: np.ndarray, block: int) -> np.ndarray:
    pieces = (order[start : start + block] for start in range(0, len(order), block))
    return np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
