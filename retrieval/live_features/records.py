"""What is stored of a user, and the limits of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EventValue = str | int | float

MAX_CHARACTERS = 1024
"""Largest number of characters of a user id, an event id, an item id, a type, a name and a string value."""
MAX_EVENT_VALUES = 100
"""Largest number of further values of an event."""
MAX_RECORD_BYTES = 65_536
"""Largest size of a profile, and of the events of a user that are read, in bytes, as they are stored."""
MAX_PROFILE_FEATURES = 10_000
"""Largest number of features of a profile that is read."""
EARLIEST_S, LATEST_S = -62_135_596_800.0, 253_402_300_800.0
"""Range of the time of an event: the years 1 to 9999, in seconds since 1970. It shows a time in milliseconds."""

_INTS = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a user did with an item.

    Attributes:
        event_id: Id of the event, distinct among the events of the user. An event whose id is there is not added again.
        user_id: Id of the user.
        item_id: Id of the item.
        time_s: Time of the event, in seconds since 1970 UTC.
        type: Type of the event, such as ``"view"``. Empty: none.
        weight: Weight of the event, finite.
        values: Further values by the second part of a feature's name: ``rating`` for the feature ``history.rating``.
    """

    event_id: str
    user_id: str
    item_id: str
    time_s: float
    type: str = ""
    weight: float = 1.0
    values: Mapping[str, EventValue] = field(default_factory=dict[str, EventValue])

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yields a pair of field and description for everything that is wrong with the event."""
        for name in ("event_id", "user_id", "item_id"):
            if fault := id_fault(getattr(self, name)):
                yield name, fault
        if not EARLIEST_S <= self.time_s < LATEST_S:
            yield "time", f"{self.time_s}, expected seconds since 1970 of the years 1 to 9999, not milliseconds"
        if fault := text_fault(self.type):
            yield "type", fault
        if not math.isfinite(self.weight):
            yield "weight", f"{self.weight}, expected a finite number"
        if len(self.values) > MAX_EVENT_VALUES:
            yield "values", f"{len(self.values)} values, expected at most {MAX_EVENT_VALUES}"
            return
        for name, value in self.values.items():
            path = f'values["{name[:80]}"]'
            if fault := id_fault(name):
                yield path, f"name of {fault}"
            if isinstance(value, str):
                if fault := text_fault(value):
                    yield path, fault
            elif isinstance(value, float):
                if not math.isfinite(value):
                    yield path, f"{value}, expected a finite number; leave out what is missing"
            elif value not in _INTS:
                yield path, f"{value}, expected -2^63 to 2^63 - 1"


class StoredEvent(NamedTuple):
    """An event as it is stored; see `Event`."""

    item_id: str
    time_s: float
    type: str = ""
    weight: float = 1.0
    values: Mapping[str, EventValue] = {}  # shared, and never changed


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What is stored of a user.

    Attributes:
        profile: Raw values by feature name, always in a list.
        events: Newest events, as many as were asked for; oldest first, and by event id where times are equal.
    """

    profile: Mapping[str, Sequence[Any]]
    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of the events of one or several writes.

    Attributes:
        recorded: Number of events that were added.
        already_there: Number of events whose id was there already; what was there stays.
        too_old: Number of events that were dropped, because they are older than all of a full history.
    """

    recorded: int = 0
    already_there: int = 0
    too_old: int = 0

    def __add__(self, other: Appended) -> Appended:
        """Returns the sums of both."""
        return Appended(
            self.recorded + other.recorded,
            self.already_there + other.already_there,
            self.too_old + other.too_old,
        )


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted of a user.

    Attributes:
        events: Number of events that were deleted.
        profile_values: Number of features of the profile that were deleted.
        remaining: Number of keys of the user that were there afterwards; 0.
    """

    events: int
    profile_values: int
    remaining: int


@dataclass(frozen=True)
class StoreLimits:
    """Limits of what is stored of a user.

    Attributes:
        max_events: Largest number of events of a user, 1 to 100,000; the oldest ones make room.
        keep_days: Time after the last write of a user after which all of it is deleted, in days, above 0 to 36,500.
        prefix: Begin of every key, so that several shops can share a Redis: 1 to 100 printable ASCII characters without
            blanks and braces.
    """

    max_events: int = 1000
    keep_days: float = 90.0
    prefix: str = "two-tower"

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: a limit is out of range; the message names it, its value and what is allowed.
        """
        if not 1 <= self.max_events <= 100_000:
            raise ValueError(f"max_events is {self.max_events}, expected 1 to 100000")
        if not 0 < self.keep_days <= 36_500:
            raise ValueError(f"keep_days is {self.keep_days}, expected above 0 to 36500")
        printable = all("!" <= character <= "~" and character not in "{}" for character in self.prefix)
        if not printable or not 1 <= len(self.prefix) <= 100:
            raise ValueError(
                f"the prefix of keys is {self.prefix!r}, expected 1 to 100 printable characters without blanks and {{}}"
            )

    @property
    def keep_ms(self) -> int:
        """Time after the last write after which all of a user is deleted, in milliseconds, at least 1."""
        return max(1, round(self.keep_days * 86_400_000))


def id_fault(text: str) -> str:
    """Returns why a text is no id; empty if it is one: 1 to `MAX_CHARACTERS` characters that UTF-8 can express."""
    return text_fault(text) if text else "0 characters, expected at least 1"


def text_fault(text: str) -> str:
    """Returns why a text cannot be stored; empty if it can."""
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters, expected at most {MAX_CHARACTERS}"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "half of a surrogate pair, which UTF-8 cannot express"
    return ""
