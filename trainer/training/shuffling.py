"""Order of the training sequences in an epoch: shuffled, but read from disk in large blocks.

A small number of events is shuffled as a whole. A large number is divided into shards, which are blocks of the file: an
epoch reads the shards in a random order, as many at a time as fit into memory, and shuffles the sequences in them, then
their batches. A batch has sequences from `BUFFER_EVENTS` / `SHARD_EVENTS` shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

BUFFER_EVENTS = 2**22
"""Number of events to shuffle together, about 100 MB of the file."""
SHARD_EVENTS = 2**16
"""Number of events in a shard, a few MB of the file."""
_SORTED_BATCHES = 16
"""Number of batches whose sequences are sorted by length together, so that batches have little padding."""


def batches(
    first: np.ndarray, lengths: np.ndarray | None, counts: np.ndarray, steps: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields `steps` batches with about the same number of targets, which together have each sequence once.

    A batch is an array of sequence indices, [n] int64.

    Args:
        first: [m] int64, ascending, row of the first event of each sequence.
        lengths: [m] int64, number of events of each sequence, to sort by length; None for no sorting.
        counts: [m] int64, number of targets of each sequence, above 0.
        steps: Number of batches, at most m.
        generator: Source of the random order.
    """
    groups = _groups(first, generator)
    if lengths is not None:
        block = -(-len(first) * _SORTED_BATCHES // steps)
        groups = [_sorted_in_blocks(group, lengths, block) for group in groups]
    order = np.concatenate(groups)
    # Cut where the cumulative number of targets passes a multiple of the batch size.
    cumulative = np.cumsum(counts[order])
    cuts = np.searchsorted(cumulative, cumulative[-1] * np.arange(1, steps) / steps)
    # No batch is empty, even if a sequence is longer than a batch.
    ahead = np.arange(1, steps)
    cuts = np.clip(np.maximum.accumulate(cuts - ahead) + ahead, ahead, len(order) - steps + ahead)
    bounds = [0, *cuts.tolist(), len(order)]
    ends = np.cumsum([len(group) for group in groups])
    of_group = np.searchsorted(
        np.append(ends[:-1], np.inf), bounds[:-1], side="right"
    )  # [steps], group of the first sequence
    for low, high in itertools.pairwise(np.searchsorted(of_group, np.arange(len(groups) + 1)).tolist()):
        for batch in generator.permutation(high - low) + low:
            yield order[bounds[batch] : bounds[batch + 1]]


def _groups(first: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Returns groups of sequences that are read together, each a shuffled array of sequence indices [n] int64."""
    if not len(first) or first[-1] < BUFFER_EVENTS:
        return [generator.permutation(len(first))]
    shards = np.split(np.arange(len(first)), np.flatnonzero(np.diff(first // SHARD_EVENTS)) + 1)
    drawn = generator.permutation(len(shards)).tolist()
    step = max(1, BUFFER_EVENTS // SHARD_EVENTS)
    return [
        generator.permutation(np.concatenate([shards[shard] for shard in drawn[start : start + step]]))
        for start in range(0, len(drawn), step)
    ]


def _sorted_in_blocks(order: np.ndarray, lengths: np.ndarray, block: int) -> np.ndarray:
    pieces = (order[start : start + block] for start in range(0, len(order), block))
    return np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
