"""What the manifest says of each shard of a catalogue that was cut into several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.bundle.layout import SHARDS

MAX_SHARDS = 1000
"""Largest number of shards of a bundle."""

_NAME = re.compile(r"shard-[0-9]{2,3}")


def shard_name(number: int) -> str:
    """Returns the name of a shard, such as ``"shard-00"``; numbers start at 0."""
    return f"shard-{number:02d}"


@dataclass(frozen=True)
class Shard:
    """A shard: consecutive items of the catalogue, with an index of their own, in a folder of the bundle.

    Attributes:
        name: Name of its folder in the folder ``shards``: ``"shard-00"``, ``"shard-01"`` and so on.
        item_count: Number of items.
        event_count: Number of training events of its items; 0 if the bundle does not know the popularity of its items.
        recall_at_100: Share of the exact 100 nearest items of this shard that its index returns at the search budget
            of the manifest, 0 to 1, as a mean over held-out queries. The recall of the merged answer is higher: it
            needs only the very nearest items of each shard.
    """

    name: str
    item_count: int
    event_count: int
    recall_at_100: float

    def __post_init__(self) -> None:
        """Checks the name and the ranges.

        Raises:
            ValueError: a value is out of range, or the name is not that of a shard.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"shard {self.name[:80]!r}: expected a name such as shard-00")
        if type(self.item_count) is not int or self.item_count < 1:
            raise ValueError(f"{self.name} has item_count {self.item_count!r}, expected at least 1")
        if type(self.event_count) is not int or self.event_count < 0:
            raise ValueError(f"{self.name} has event_count {self.event_count!r}, expected at least 0")
        if not 0.0 <= self.recall_at_100 <= 1.0:
            raise ValueError(f"{self.name} has recall_at_100 {self.recall_at_100}, expected 0 to 1")

    @property
    def folder(self) -> str:
        """Path of its folder in the bundle."""
        return f"{SHARDS}/{self.name}"


def check_shards(shards: Sequence[Shard], item_count: int) -> None:
    """Checks that shards make up a catalogue.

    Raises:
        ValueError: there is one shard alone or too many, they are not in order, or do not have this number of items.
    """
    if not 2 <= len(shards) <= MAX_SHARDS:
        raise ValueError(f"{len(shards)} shards, expected none, or 2 to {MAX_SHARDS}")
    names = [shard.name for shard in shards]
    if names != [shard_name(number) for number in range(len(shards))]:
        raise ValueError(f"shards {names[:5]}, expected shard-00, shard-01 and so on, in this order")
    total = sum(shard.item_count for shard in shards)
    if total != item_count:
        raise ValueError(f"the shards have {total} items, the catalogue {item_count}")


def parse_shards(raw: Any) -> tuple[Shard, ...]:
    """Returns the shards of a manifest.

    Raises:
        TypeError, ValueError: they are damaged.
    """
    if not isinstance(raw, list):
        raise TypeError(f"shards is {str(raw)[:80]}, expected a list")
    return tuple(Shard(**shard) for shard in raw)
