"""The keys of a user, and the form of what they hold.

| key                         | type       | content                                                        |
|-----------------------------|------------|----------------------------------------------------------------|
| ``two-tower:{42}:order``    | sorted set | event ids, scored by time                                      |
| ``two-tower:{42}:events``   | hash       | event id to JSON ``[item_id, time, type, weight, values]``     |
| ``two-tower:{42}:profile``  | hash       | feature name to a JSON list of raw values                      |

The braces are a hash tag: in a cluster, all keys of a user are on one node. Trailing defaults of an event are left out.
``%``, ``{`` and ``}`` in user ids are percent-encoded, so that each id has a tag, and keys of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.live_features.errors import UnreadableRecord
from retrieval.live_features.records import (
    EARLIEST_S,
    LATEST_S,
    MAX_PROFILE_FEATURES,
    MAX_RECORD_BYTES,
    Event,
    StoredEvent,
    StoredUser,
    id_fault,
)

_ENCODED = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
_DEFAULTS = (None, None, "", 1.0, {})


def keys_of(prefix: str, user_id: str) -> tuple[str, str, str]:
    """Returns the keys of a user: order, events, profile."""
    stem = f"{prefix}:{{{user_id.translate(_ENCODED)}}}"
    return f"{stem}:order", f"{stem}:events", f"{stem}:profile"


def encode_event(event: Event) -> str:
    """Returns the stored form of an event."""
    fields: list[Any] = [event.item_id, event.time_s, event.type, event.weight, dict(event.values)]
    while len(fields) > 2 and fields[-1] == _DEFAULTS[len(fields) - 1]:
        del fields[-1]
    return _to_json(fields)


def encode_profile(profile: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns names and stored forms of a profile in turns.

    Raises:
        ValueError: a value is neither string, int nor finite float, or the profile is too large.
    """
    encoded: list[str] = []
    for name, values in profile.items():
        encoded += [name, _to_json(list(values))]
    if len(profile) > MAX_PROFILE_FEATURES:
        raise ValueError(f"a profile of {len(profile)} features, expected at most {MAX_PROFILE_FEATURES}")
    size = sum(len(text.encode()) for text in encoded)
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a profile of {size} bytes, expected at most {MAX_RECORD_BYTES}")
    return encoded


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What Redis answered for a user, not decoded yet.

    Attributes:
        profile: JSON object of the profile.
        events: JSON list of events, oldest first.
        fault: Reason for which Redis could not read the record; empty if it could.
    """

    profile: bytes = b"{}"
    events: bytes = b"[]"
    fault: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stored of the user."""
        return self.profile == b"{}" and self.events == b"[]" and not self.fault

    def decode(self) -> StoredUser | None:
        """Returns what is stored of the user; None if nothing is.

        Raises:
            UnreadableRecord: the keys hold what this package did not write.
        """
        if self.is_empty:
            return None
        if self.fault:
            raise UnreadableRecord(self.fault)
        try:
            profile = json.loads(self.profile)
            events = [_to_event(*fields) for fields in json.loads(self.events)]
            if not all(isinstance(values, list) for values in profile.values()):
                raise ValueError("a value of the profile is not a list")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableRecord(f"a record of the feature store was not written by this program: {error}") from error
        return StoredUser(profile, events)


def _to_event(
    item_id: Any, time_s: Any, kind: Any = "", weight: Any = 1.0, values: Any = StoredEvent._field_defaults["values"]
) -> StoredEvent:
    if not (
        isinstance(item_id, str)
        and isinstance(time_s, float | int)
        and isinstance(kind, str)
        and isinstance(weight, float | int)
        and isinstance(values, dict)
    ):
        raise ValueError("a field of an event has another type")
    if not EARLIEST_S <= time_s < LATEST_S or id_fault(item_id):
        raise ValueError("the time or the item id of an event is none")
    return StoredEvent(item_id, time_s, kind, weight, values)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
