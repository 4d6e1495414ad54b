"""Swaps of all shards under load: no call may fail, and no answer may mix two bundles."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.attack.rows import Row
from benchmarks.shards.load import COMPLETE, WRONG, Answer, Load
from benchmarks.shards.reference import Reference
from retrieval.store.folder_store import FolderStore

_NAME = "swaps"
_SWAP_S = 180.0
_ANSWERS = 30
"""Answers of a bundle, after which the next swap begins."""


@dataclass
class Swaps:
    """What swaps did.

    Attributes:
        took_s: For each swap, time from the promotion to the first answer of the new bundle, in seconds.
        returned: Answers of the old bundle to calls that began after an answer of the new bundle had arrived.
        kinds: Number of answers by kind.
        notes: What was wrong with answers.
        latencies_s: Latency of each answer, in seconds.
    """

    took_s: list[float] = field(default_factory=list[float])
    returned: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list[str])
    latencies_s: list[float] = field(default_factory=list[float])


def swap(
    address: str, store: FolderStore, references: Mapping[str, Reference], versions: Sequence[str], count: int
) -> Swaps:
    """Promotes bundles in turn, under load.

    Args:
        address: address of the service.
        store: store of the service.
        references: right answers of each bundle, by version.
        versions: versions to promote in turn; the last one is live.
        count: number of swaps.

    Raises:
        PairError: a bundle did not answer in time.
    """
    found = Swaps()
    with Load(address, references) as load:
        load.wait_for(lambda answers: len(answers) >= _ANSWERS, "answers", _SWAP_S)
        for number, version in enumerate(itertools.islice(itertools.cycle(versions), count), 1):
            start, began_s = len(load.answers), time.monotonic()
            store.promote(version)

            def is_swapped(answers: Sequence[Answer], version: str = version) -> bool:
                return sum(answer.version == version for answer in answers) >= _ANSWERS

            load.wait_for(is_swapped, f"answers of {version}", _SWAP_S, start)
            own = [answer for answer in load.answers[start:] if answer.version]
            first_s = min(answer.ended_s for answer in own if answer.version == version)
            found.returned += sum(a.version != version and a.began_s > first_s for a in own)
            found.took_s.append(first_s - began_s)
            print(f"swap {number}: {found.took_s[-1]:.1f} s", file=sys.stderr)
    found.kinds, found.notes = load.count(), load.notes()
    found.latencies_s = [answer.ended_s - answer.began_s for answer in load.answers]
    return found


def judge(swaps: Swaps, planned: int) -> Iterator[Row]:
    """Yields the rows of swaps, of which so many were planned."""
    kinds = swaps.kinds
    failed = kinds.total() - kinds[COMPLETE] - kinds[WRONG]
    note = swaps.notes[0] if swaps.notes else f"{kinds[COMPLETE]:,} answers"
    took = f"median {np.median(swaps.took_s):.1f} s, longest {max(swaps.took_s):.1f} s" if swaps.took_s else ""
    yield Row(_NAME, "swaps of all shards under load", len(swaps.took_s), planned, "", True, took)
    yield Row(_NAME, "calls that failed, or were not of all shards", failed, 0, "", note=note)
    yield Row(_NAME, "answers that mix bundles, or are wrong", kinds[WRONG], 0, "", note=note)
    yield Row(_NAME, "calls that got the old bundle after the new one had answered", swaps.returned, 0, "")
