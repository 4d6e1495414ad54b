"""Recipe keys that were renamed or removed: advice for a person's recipe, and migration of stored recipes.

Runs, bundles, checkpoints and studies store the resolved recipe with every key. If an earlier trainer wrote them, they
contain retired keys.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

_OLD_HISTORY_DESCRIPTION = "ids of the items the user met before, oldest first; missing: a new user"
"""The default description of a history in earlier recipes."""

AGE_DECAY = "age_decay"
"""A history encoder that was removed."""

_RENAMED_TRAINING = {"members": "ensemble_size", "binary_share": "bce_weight"}
"""Renamed keys of ``[training]``: old name to new name."""
_RENAMED_HISTORY = {"values": "event_features", "values_dropout": "event_feature_dropout"}
"""Renamed keys of a history: old name to new name."""

ADVICE = {
    **{old: f"is now called {new}" for old, new in {**_RENAMED_TRAINING, **_RENAMED_HISTORY}.items()},
    "popularity": (
        "no longer a key; use training.prior_weight, try 0.05 to 0.3, and training.prior_days: recent popularity is "
        "added to trained towers"
    ),
    "popularity_half_life_days": "no longer a key; use training.prior_days, which says how old the events may be",
    "half_life_days": "no longer a key: only the encoder age_decay read it, which no longer exists; remove it",
    "interests": "no longer a key, as no data set gained by several embeddings a query; remove it",
    AGE_DECAY: (
        "the encoder age_decay no longer exists, as it was clearly worse than the others; use positions, the default, "
        'with event_features = [{ kind = "age" }] where times matter'
    ),
}
"""What to do about a retired key, or a retired value, in a person's recipe, by its name."""


def migrate(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a stored recipe with renamed keys under their new names and without removed keys.

    A key that it does not have yet, and whose default changed what was done before, is added.
    """
    raw = copy.deepcopy(dict(stored))
    training = _table(raw, "training")
    _rename(training, _RENAMED_TRAINING)
    for key in ("popularity", "popularity_half_life_days"):
        training.pop(key, None)
    _table(raw, "query_tower").pop("interests", None)
    for feature in _query_features(raw):
        if feature.get("kind") == "history":
            _rename(feature, _RENAMED_HISTORY)
            if feature.get("description") == _OLD_HISTORY_DESCRIPTION:
                del feature["description"]
        feature.pop("half_life_days", None)
        if feature.get("encoder") == AGE_DECAY:
            del feature["encoder"]
    if isinstance(raw.get("items"), dict):
        raw["items"].setdefault("only_listed", False)  # before this key, items that were not listed were kept
    return raw


def unsupported(stored: Mapping[str, Any]) -> list[str]:
    """Returns the removed keys of a stored recipe that shaped its towers, each with its value."""
    popularity = _table(stored, "training").get("popularity", "none")
    keys = [] if popularity == "none" else [f'training.popularity = "{popularity}"']
    interests = _table(stored, "query_tower").get("interests", 1)
    keys += [] if interests == 1 else [f"query_tower.interests = {interests}"]
    histories = [feature for feature in _query_features(stored) if feature.get("encoder") == AGE_DECAY]
    return [*keys, *(f'encoder = "{AGE_DECAY}" of {history.get("name")}' for history in histories)]


def _rename(table: dict[str, Any], names: Mapping[str, str]) -> None:
    for old, new in names.items():
        if old in table:
            table[new] = table.pop(old)


def _table(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name)
    return table if isinstance(table, dict) else {}


def _query_features(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    features = _table(raw, "query_tower").get("features")
    return [feature for feature in features if isinstance(feature, dict)] if isinstance(features, list) else []
