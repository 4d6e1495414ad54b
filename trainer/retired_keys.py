"""Recipe keys that no longer exist: what to use instead, and how stored recipes that hold them are read.

Runs, bundles, checkpoints and studies keep the resolved recipe with every key, so those of earlier trainers hold these.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

ADVICE = {
    "popularity": (
        "no longer a key; use training.prior_weight, try 0.05 to 0.3, and training.prior_days: what was taken lately "
        "is added to fitted towers"
    ),
    "popularity_half_life_days": "no longer a key; use training.prior_days, which says how old the events may be",
}
"""What to do about a key in a person's recipe, by its name."""


def without(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a stored recipe without the keys that no longer exist; `trainer.recipes.parse` reads it."""
    raw = copy.deepcopy(dict(stored))
    training = _table(raw, "training")
    for key in ("popularity", "popularity_half_life_days"):
        training.pop(key, None)
    return raw


def used(stored: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a stored recipe that no longer exist and that shaped its towers, each with its value."""
    popularity = _table(stored, "training").get("popularity", "none")
    return [] if popularity == "none" else [f'training.popularity = "{popularity}"']


def _table(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, dict) else {}
