"""Events to record in the histories of users, and what the feature store did with them."""

import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.results import StoredFeatures

EventValue = str | int | float

EVENTS_MAX = 1000
"""Most events of one call; more are sent in several calls."""

_STORED_FEATURES: dict[int, StoredFeatures] = {
    query_pb2.STORED_FEATURES_UNSPECIFIED: "",
    query_pb2.STORED_FEATURES_USED: "used",
    query_pb2.STORED_FEATURES_UNKNOWN_USER: "unknown_user",
    query_pb2.STORED_FEATURES_UNAVAILABLE: "unavailable",
    query_pb2.STORED_FEATURES_NOT_CONFIGURED: "not_configured",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a user did with an item.

    Attributes:
        user_id: Id of the user, 1 to 1,024 characters, as are the other ids.
        item_id: Id of the item.
        type: Type of the event, such as "view". Default: none.
        time_s: Time of the event in seconds since 1970 UTC. Default: now.
        weight: Weight of the event, a finite number.
        values: Values of the features that describe the events of a history, by the second part of the name of the
            feature: "rating" for "history.rating". None: the event has no value.
        event_id: Id of the event, distinct among the events of the user: an id that is there already is not recorded
            again. Default: a random one, so that this object can be recorded again after an error. An id that your data
            has, such as that of an order line, also protects against recording an event twice from two places.

    Example:
        >>> event = Event("42", "50", "view", time_s=893_286_638.0)
        >>> event.weight, len(event.event_id)
        (1.0, 32)
    """

    user_id: str
    item_id: str
    type: str = ""
    time_s: float = field(default_factory=time.time)
    weight: float = 1.0
    values: Mapping[str, EventValue | None] = field(default_factory=dict[str, EventValue | None])
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class RecordedEvents:
    """What became of events.

    Attributes:
        recorded: Number of events that were added.
        already_there: Number of events whose id was there already, for instance because a call was repeated.
        too_old: Number of events that are older than all of a full history, and were dropped.
    """

    recorded: int = 0
    already_there: int = 0
    too_old: int = 0

    def __add__(self, other: "RecordedEvents") -> "RecordedEvents":
        """Returns the sums of both."""
        return RecordedEvents(
            self.recorded + other.recorded,
            self.already_there + other.already_there,
            self.too_old + other.too_old,
        )


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """What was deleted of a user.

    Attributes:
        events: Number of events that were deleted.
        profile_values: Number of features of the profile that were deleted.
    """

    events: int
    profile_values: int


def to_record_requests(events: Sequence[Event]) -> Iterator[query_pb2.RecordEventsRequest]:
    """Yields the requests that record events, of at most `EVENTS_MAX` events each.

    Raises:
        InvalidRequest: If there are no events, or a value has a wrong type.
    """
    if not events:
        raise InvalidRequest.in_field("events", "is empty; send at least one")
    for first in range(0, len(events), EVENTS_MAX):
        request = query_pb2.RecordEventsRequest()
        for number, event in enumerate(events[first : first + EVENTS_MAX], first):
            try:
                _write(request.events.add(), event)
            except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
                raise InvalidRequest.in_field(f"events[{number}]", f"cannot be sent: {error}") from error
        yield request


def to_recorded(response: query_pb2.RecordEventsResponse) -> RecordedEvents:
    """Returns what became of the events of a call."""
    return RecordedEvents(response.recorded, response.already_there, response.too_old)


def to_forgotten(response: query_pb2.ForgetUserResponse) -> ForgottenUser:
    """Returns what was deleted of a user.

    Raises:
        ServerError: If something of the user is left.
    """
    if response.remaining:
        raise ServerError(f"{response.remaining} keys of the user are left in the feature store; forget the user again")
    return ForgottenUser(response.events, response.profile_values)


def to_stored_features(values: Sequence[int]) -> tuple[StoredFeatures, ...]:
    """Returns what the feature store did for each query. A value of a newer service counts as "unavailable"."""
    return tuple(_STORED_FEATURES.get(value, "unavailable") for value in values)


def _write(message: query_pb2.Event, event: Event) -> None:
    message.event_id, message.user_id, message.item_id = event.event_id, event.user_id, event.item_id
    message.time, message.type, message.weight = event.time_s, event.type, event.weight
    for name, value in event.values.items():
        if isinstance(value, bool):
            raise ValueError(f"values[{name!r}] is a bool; send a string such as 'true', or 0 and 1")
        if isinstance(value, str):
            message.values[name].string_value = value
        elif isinstance(value, Integral):
            message.values[name].int_value = int(value)
        elif value is not None and not math.isnan(value):
            message.values[name].float_value = float(value)
