"""Parses the requests that write to the feature store. A refusal lists everything that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from google.protobuf.message import Message

from query_tower_service.requests import MAX_VIOLATIONS
from retrieval.live_features.records import LATEST_S, Event, EventValue, id_fault
from retrieval.serving.answering.call import SMALL_BYTES
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import decode, decode_parts
from retrieval.steps import Steps
from two_tower.query.v1 import query_tower_service_pb2 as pb

MAX_EVENT_BYTES = 64 << 10
MAX_AHEAD_S = 86_400.0
"""Largest time of an event ahead of the clock of the service, in seconds: such an event would stay the newest one."""
_EVENTS_A_STEP = 100


class _HasEvents(Protocol):
    @property
    def events(self) -> Sequence[pb.Event]: ...


def parse_events(body: bytes, request_class: type[Message], max_events: int, now_s: float) -> Steps[list[Event]]:
    """Returns the events of a request. Pauses between parts of a large one.

    Args:
        body: serialized RecordEventsRequest or RecordEventsStreamRequest.
        request_class: class of the request.
        max_events: largest number of events.
        now_s: time now, in seconds since 1970.

    Raises:
        InvalidRequest: there are no events, too many, or invalid ones; it lists up to 20 violations.
    """
    messages = yield from _decode(body, request_class, max_events)
    if not 1 <= len(messages) <= max_events:
        raise InvalidRequest([("events", f"{len(messages)} events, expected 1 to {max_events}")])
    events: list[Event] = []
    violations: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        if number and number % _EVENTS_A_STEP == 0:
            yield
        event = _to_event(message)
        faults = [(f"events[{number}].{field}", fault) for field, fault in _faults(event, message, now_s)]
        violations += faults
        events.append(event)
        if len(violations) >= MAX_VIOLATIONS:
            break
    if violations:
        raise InvalidRequest(violations[:MAX_VIOLATIONS])
    return events


def parse_user(body: bytes) -> str:
    """Returns the user of a ForgetUserRequest.

    Raises:
        InvalidRequest: the id is empty or too long.
    """
    user_id = decode(body, pb.ForgetUserRequest).user_id
    if fault := id_fault(user_id):
        raise InvalidRequest([("user_id", fault)])
    return user_id


def _decode(body: bytes, request_class: type[Message], max_events: int) -> Steps[Sequence[pb.Event]]:
    if len(body) <= SMALL_BYTES:
        request: _HasEvents = decode(body, request_class)  # pyright: ignore[reportAssignmentType]
        return request.events
    _, events = yield from decode_parts(body, request_class, pb.Event, "events", max_events, _check_size)
    return events


def _check_size(path: str, body: bytes, start: int, end: int) -> Steps[None]:
    """Checks the size of an event before it is decoded; see `retrieval.serving.answering.wire.decode_parts`."""
    del body
    if end - start > MAX_EVENT_BYTES:
        raise InvalidRequest([(path, f"an event of {end - start} bytes, expected at most {MAX_EVENT_BYTES}")])
    yield from ()


def _to_event(message: pb.Event) -> Event:
    values: dict[str, EventValue] = {}
    for name, value in message.values.items():
        if kind := value.WhichOneof("kind"):
            values[name] = getattr(value, kind)
    weight = message.weight if message.HasField("weight") else 1.0
    return Event(message.event_id, message.user_id, message.item_id, message.time, message.type, weight, values)


def _faults(event: Event, message: pb.Event, now_s: float) -> Iterator[tuple[str, str]]:
    yield from event.faults()
    if now_s + MAX_AHEAD_S < event.time_s < LATEST_S:
        yield "time", f"{event.time_s - now_s:.0f} s ahead of the clock of this service, expected at most a day"
    for name in message.values:
        if name not in event.values:
            yield f'values["{name[:80]}"]', "no value; set string_value, int_value or float_value, or leave it out"
