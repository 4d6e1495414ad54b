"""Finds ids that are in several rows of a catalogue by 64-bit hashes, then looks at the ids themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.errors import DataError

MOST_LOCATED = 1000
"""Largest number of hashes whose ids are looked at; more cannot all be chance collisions."""
_SHOWN = 3


def repeated(hashes: np.ndarray) -> np.ndarray:
    """Returns the values that occur more than once, sorted; sorts `hashes` in place.

    Args:
        hashes: [n] uint64.
    """
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def refuse(items: str, hash_count: int, located: Sequence[tuple[str, str]]) -> None:
    """Checks that no id is in several rows.

    Args:
        items: Items table, for the message.
        hash_count: Number of hashes that occur more than once.
        located: Id and place of each row that has one of the first `MOST_LOCATED` of these hashes.

    Raises:
        DataError: An id is in several rows; names some, with their places.
    """
    places: dict[str, list[str]] = {}
    for item_id, place in located:
        places.setdefault(item_id, []).append(place)
    double = {item_id: where for item_id, where in places.items() if len(where) > 1}
    if not double:
        return
    count = len(double) if hash_count <= MOST_LOCATED else hash_count
    shown = "; ".join(
        f"{item_id!r} in {' and '.join(where[:_SHOWN])}" for item_id, where in list(double.items())[:_SHOWN]
    )
    raise DataError(f"{items}: {count:,} ids are in several rows: {shown}; keep one row of each")
