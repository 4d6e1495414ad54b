"""Recipe keys that no longer exist: what to use instead, and how stored recipes that hold them are read.

Runs, bundles, checkpoints and studies keep the resolved recipe with every key, so those of earlier trainers hold these.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

AGE_DECAY = "age_decay"
"""An encoder of histories that no longer exists."""
ADVICE = {
    "popularity": (
        "no longer a key; use training.prior_weight, try 0.05 to 0.3, and training.prior_days: what was taken lately "
        "is added to fitted towers"
    ),
    "popularity_half_life_days": "no longer a key; use training.prior_days, which says how old the events may be",
    "half_life_days": "no longer a key: only the encoder age_decay read it, which no longer exists; remove it",
    "interests": "no longer a key, as no data set gained by several embeddings a query; remove it",
    AGE_DECAY: (
        "the encoder age_decay no longer exists, as it was clearly worse than the others; use positions, the default, "
        'with values = [{ kind = "age" }] where times matter'
    ),
}
"""What to do about a key, or a value, in a person's recipe, by its name."""


def without(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a stored recipe without the keys that no longer exist; `trainer.recipe.loading.parse` reads it."""
    raw = copy.deepcopy(dict(stored))
    training = _table(raw, "training")
    for key in ("popularity", "popularity_half_life_days"):
        training.pop(key, None)
    _table(raw, "query_tower").pop("interests", None)
    for history in _query_features(raw):
        history.pop("half_life_days", None)
        if history.get("encoder") == AGE_DECAY:
            del history["encoder"]
    return raw


def used(stored: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a stored recipe that no longer exist and that shaped its towers, each with its value."""
    popularity = _table(stored, "training").get("popularity", "none")
    found = [] if popularity == "none" else [f'training.popularity = "{popularity}"']
    interests = _table(stored, "query_tower").get("interests", 1)
    found += [] if interests == 1 else [f"query_tower.interests = {interests}"]
    histories = [feature for feature in _query_features(stored) if feature.get("encoder") == AGE_DECAY]
    return [*found, *(f'encoder = "{AGE_DECAY}" of {history.get("name")}' for history in histories)]


def _table(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, dict) else {}


def _query_features(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    features = _table(raw, "query_tower").get("features")
    return [feature for feature in features if isinstance(feature, dict)] if isinstance(features, list) else []
