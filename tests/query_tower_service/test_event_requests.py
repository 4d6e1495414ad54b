"""Requests that write to the feature store, from any bytes."""

from __future__ import annotations

import math
from contextlib import suppress

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from query_tower_service.event_requests import parse_events, parse_user
from retrieval.live_features.codec import StoredRecord, encode_event, keys_of
from retrieval.live_features.errors import UnreadableRecord
from retrieval.live_features.records import Event, StoredEvent
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.steps import run_to_end
from two_tower.query.v1 import query_tower_service_pb2 as pb

NOW_S = 1.7e9

TEXTS = st.text(max_size=30) | st.sampled_from(["x" * 1024, "x" * 1025, "", "}", "\x00", "\ud7ff"])
NUMBERS = st.floats() | st.sampled_from([NOW_S, NOW_S + 86_400, NOW_S + 86_401, -62_135_596_800.0, 253_402_300_800.0])
VALUES = st.one_of(
    TEXTS.map(lambda text: pb.EventValue(string_value=text)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: pb.EventValue(int_value=number)),
    NUMBERS.map(lambda number: pb.EventValue(float_value=number)),
    st.just(pb.EventValue()),
)
EVENTS = st.builds(
    pb.Event,
    event_id=TEXTS,
    user_id=TEXTS,
    item_id=TEXTS,
    time=NUMBERS,
    type=TEXTS,
    weight=st.none() | NUMBERS,
    values=st.dictionaries(TEXTS, VALUES, max_size=3),
)


def is_text(text: str) -> bool:
    return len(text) <= 1024


def is_id(text: str) -> bool:
    return is_text(text) and text != ""


def is_value(value: pb.EventValue) -> bool:
    kind = value.WhichOneof("kind")
    if kind == "float_value":
        return math.isfinite(value.float_value)
    return kind == "int_value" or (kind == "string_value" and is_text(value.string_value))


def is_valid(event: pb.Event) -> bool:
    """Says what the proto says."""
    return (
        all(map(is_id, (event.event_id, event.user_id, event.item_id)))
        and -62_135_596_800 <= event.time <= NOW_S + 86_400
        and is_text(event.type)
        and (not event.HasField("weight") or math.isfinite(event.weight))
        and all(is_id(name) and is_value(value) for name, value in event.values.items())
    )


def parse(
    body: bytes, request_class: type[Message] = pb.RecordEventsRequest, most: int = 5
) -> list[Event] | InvalidRequest:
    try:
        return run_to_end(parse_events(body, request_class, most, NOW_S))
    except InvalidRequest as error:
        return error


@given(st.lists(EVENTS, max_size=6))
def test_events_are_taken_if_they_are_what_the_proto_says(messages: list[pb.Event]) -> None:
    parsed = parse(pb.RecordEventsRequest(events=messages).SerializeToString())
    if isinstance(parsed, InvalidRequest):
        wrong = {f"events[{row}]" for row, message in enumerate(messages) if not is_valid(message)}
        assert wrong or not 1 <= len(messages) <= 5
        assert {field.partition(".")[0] for field, _ in parsed.violations} <= (wrong | {"events"})
        return
    assert 1 <= len(messages) <= 5
    assert all(map(is_valid, messages))
    for event, message in zip(parsed, messages, strict=True):
        assert (event.event_id, event.user_id) == (message.event_id, message.user_id)
        stored = StoredRecord(events=f"[{encode_event(event)}]".encode()).decode()
        assert stored is not None
        values = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in message.values.items()}
        weight = message.weight if message.HasField("weight") else 1.0
        assert stored.events == [StoredEvent(message.item_id, message.time, message.type, weight, values)]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_are_refused(body: bytes) -> None:
    for request_class in (pb.RecordEventsRequest, pb.RecordEventsStreamRequest):
        parsed = parse(body, request_class)
        assert isinstance(parsed, InvalidRequest) or not [fault for event in parsed for fault in event.faults()]
    with suppress(InvalidRequest):
        assert 1 <= len(parse_user(body)) <= 1024


@settings(max_examples=20)
@given(st.lists(EVENTS, min_size=1, max_size=3), st.integers(1, 300))
def test_a_large_request_is_judged_as_a_small_one(messages: list[pb.Event], repeats: int) -> None:
    parsed = parse(pb.RecordEventsRequest(events=messages * repeats).SerializeToString(), most=1000)
    assert isinstance(parsed, InvalidRequest) != all(map(is_valid, messages))
    if isinstance(parsed, InvalidRequest):
        assert 1 <= len(parsed.violations) <= 20
    else:
        assert len(parsed) == len(messages) * repeats


@given(TEXTS, TEXTS)
def test_users_have_keys_of_their_own_with_one_hash_tag(one: str, other: str) -> None:
    keys = keys_of("p", one)
    assert (keys == keys_of("p", other)) == (one == other)
    for key in keys:
        start, end = key.index("{"), key.index("}")
        assert (key.count("{"), key.count("}")) == (1, 1)
        assert end > start + 1 or one == ""
        assert not set(keys) & set(keys_of("p", other)) or one == other


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_record_of_any_bytes_is_a_user_or_unreadable(profile: bytes, events: bytes) -> None:
    try:
        user = StoredRecord(profile, events).decode()
    except UnreadableRecord:
        return
    assert user is None or all(isinstance(values, list) for values in user.profile.values())


def test_an_event_of_one_second_before_1970_is_an_event() -> None:
    assert list(Event("1", "2", "3", -1.0).faults()) == []
