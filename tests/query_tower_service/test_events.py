"""RecordEvents, RecordEventsStream and ForgetUser, from a running service with a real Redis server."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis

from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import Running, failure, fields, query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb

PATIENT = {"features_timeout_s": 5.0, "features_write_timeout_s": 5.0}


@pytest.fixture
def served(filled: FolderStore, redis_server: RedisServer) -> Iterator[Running]:
    with query_tower_service(
        filled, features=redis_server.url, features_max_events=50, max_batch_size=200, receive_timeout_s=1.0, **PATIENT
    ) as service:
        yield service


def event(number: int, user_id: str = "42", **others: Any) -> pb.Event:
    return pb.Event(
        **{"event_id": f"e{number:04}", "user_id": user_id, "item_id": "i1", "time": float(number), **others}
    )


def record(service: Running, *events: pb.Event) -> tuple[int, int, int]:
    done = service.stub.RecordEvents(pb.RecordEventsRequest(events=events), timeout=10)
    return done.recorded, done.already_there, done.too_old


def test_counts_what_became_of_the_events(served: Running) -> None:
    events = [event(number) for number in range(60)]
    assert record(served, *events[10:]) == (50, 0, 0)
    assert record(served, *events) == (0, 50, 10)
    assert record(served, event(60), event(1, "43")) == (2, 0, 0)


def test_an_event_is_stored_as_it_was_sent(served: Running, redis_server: RedisServer) -> None:
    values = {
        "rating": pb.EventValue(float_value=4.5),
        "n": pb.EventValue(int_value=7),
        "s": pb.EventValue(string_value=""),
    }
    record(served, event(1, type="view", weight=0.0, values=values), event(2))
    with redis.Redis(port=redis_server.port, decode_responses=True) as client:
        stored = client.hgetall("two-tower:{42}:events")
        ttl_s = client.ttl("two-tower:{42}:events")
    assert {key: json.loads(value) for key, value in stored.items()} == {
        "e0001": ["i1", 1.0, "view", 0.0, {"n": 7, "rating": 4.5, "s": ""}],
        "e0002": ["i1", 2.0],
    }
    assert 89 * 86_400 < ttl_s <= 90 * 86_400


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"event_id": ""}, "events[1].event_id"),
        ({"user_id": ""}, "events[1].user_id"),
        ({"item_id": ""}, "events[1].item_id"),
        ({"event_id": "x" * 1025}, "events[1].event_id"),
        ({"type": "x" * 1025}, "events[1].type"),
        ({"time": math.nan}, "events[1].time"),
        ({"time": math.inf}, "events[1].time"),
        ({"time": 1.8e12}, "events[1].time"),
        ({"weight": math.nan}, "events[1].weight"),
        ({"values": {"a": pb.EventValue()}}, 'events[1].values["a"]'),
        ({"values": {"a": pb.EventValue(float_value=math.inf)}}, 'events[1].values["a"]'),
        ({"values": {"a": pb.EventValue(string_value="x" * 1025)}}, 'events[1].values["a"]'),
        ({"values": {"": pb.EventValue(int_value=1)}}, 'events[1].values[""]'),
        ({"values": {f"v{number}": pb.EventValue(int_value=1) for number in range(101)}}, "events[1].values"),
        ({"item_id": "x" * 70_000}, "events[1]"),
    ],
)
def test_says_what_is_wrong_and_writes_nothing(
    served: Running, redis_server: RedisServer, wrong: dict[str, Any], field: str
) -> None:
    request = pb.RecordEventsRequest(events=[event(1), event(2, **wrong)])
    code, message, detail = failure(served.stub.RecordEvents, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", [field])
    assert message.startswith(field)
    assert redis_server.ask("DBSIZE") == ":0"


def test_an_event_far_ahead_of_the_clock_is_refused(served: Running) -> None:
    assert record(served, event(1, time=time.time() + 3600)) == (1, 0, 0)
    request = pb.RecordEventsRequest(events=[event(2, time=time.time() + 2 * 86_400)])
    assert fields(failure(served.stub.RecordEvents, request)[2]) == ["events[0].time"]


def test_lists_at_most_twenty_faults(served: Running) -> None:
    request = pb.RecordEventsRequest(events=[pb.Event()] * 30)
    assert len(failure(served.stub.RecordEvents, request)[2].field_violations) == 20


@pytest.mark.parametrize("count", [0, 201])
def test_an_empty_or_too_large_batch_is_refused(served: Running, count: int) -> None:
    request = pb.RecordEventsRequest(events=[event(number) for number in range(count)])
    code, _, detail = failure(served.stub.RecordEvents, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["events"])


def test_bytes_that_are_no_request_are_refused(served: Running) -> None:
    for method in ("RecordEvents", "ForgetUser", "RecordEventsStream"):
        call = served.channel.unary_unary(f"/two_tower.query.v1.QueryTowerService/{method}")
        assert failure(call, b"\xff\xff")[0] == "INVALID_ARGUMENT"


def requests(*batches: int) -> Iterator[pb.RecordEventsStreamRequest]:
    """Yields requests of so many events each, all distinct."""
    number = 0
    for size in batches:
        yield pb.RecordEventsStreamRequest(events=[event(each) for each in range(number, number + size)])
        number += size


def test_a_stream_has_the_sums_of_its_messages(served: Running) -> None:
    done = served.stub.RecordEventsStream(requests(3, 1, 20), timeout=10)
    assert (done.recorded, done.already_there, done.too_old) == (24, 0, 0)
    done = served.stub.RecordEventsStream(requests(10, 30, 20), timeout=10)
    assert (done.recorded, done.already_there, done.too_old) == (36, 24, 0)


def test_a_stream_without_messages_is_refused(served: Running) -> None:
    assert failure(served.stub.RecordEventsStream, iter(()))[0] == "INVALID_ARGUMENT"


def test_what_a_stream_wrote_before_an_error_stays(served: Running, redis_server: RedisServer) -> None:
    def with_fault() -> Iterator[pb.RecordEventsStreamRequest]:
        yield pb.RecordEventsStreamRequest(events=[event(1)])
        yield pb.RecordEventsStreamRequest(events=[event(2, item_id="")])
        yield pb.RecordEventsStreamRequest(events=[event(3)])

    code, _, detail = failure(served.stub.RecordEventsStream, with_fault())
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["events[0].item_id"])
    with redis.Redis(port=redis_server.port) as client:
        assert client.hkeys("two-tower:{42}:events") == [b"e0001"]


class Producer:
    """A stream that sends a message for each call of `send`, until `end`."""

    def __init__(self, service: Running, token: str = "") -> None:
        self._ready = threading.Semaphore(0)
        self._ended = False
        self._number = 0
        metadata = [("authorization", f"Bearer {token}")] if token else None
        self.call = service.stub.RecordEventsStream.future(self._requests(), timeout=20, metadata=metadata)

    def _requests(self) -> Iterator[pb.RecordEventsStreamRequest]:
        while self._ready.acquire(timeout=20) and not self._ended:
            self._number += 1
            yield pb.RecordEventsStreamRequest(events=[event(self._number)])

    def send(self) -> None:
        self._ready.release()

    def end(self) -> None:
        self._ended = True
        self._ready.release()


def count(server: RedisServer) -> int:
    with redis.Redis(port=server.port) as client:
        return client.hlen("two-tower:{42}:events")


def test_each_message_of_a_stream_is_visible_before_the_next(served: Running, redis_server: RedisServer) -> None:
    producer = Producer(served)
    for number in range(1, 4):
        producer.send()
        wait_for(lambda number=number: count(redis_server) == number, "the message is written")
    producer.end()
    assert producer.call.result(10).recorded == 3


def test_a_stream_that_falls_silent_is_ended(served: Running, redis_server: RedisServer) -> None:
    producer = Producer(served)
    producer.send()
    error = producer.call.exception(15)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    producer.end()
    assert count(redis_server) == 1


def test_an_open_stream_does_not_hold_up_a_service_that_stops(filled: FolderStore, redis_server: RedisServer) -> None:
    with query_tower_service(filled, features=redis_server.url, receive_timeout_s=60.0, **PATIENT) as service:
        producer = Producer(service)
        producer.send()
        wait_for(lambda: count(redis_server) == 1, "the message is written")
        started = time.monotonic()
    # Far less than the 30 s that a drain may take, and than the 60 s until the stream counts as silent.
    assert time.monotonic() - started < 15
    assert producer.call.exception(10).code() is grpc.StatusCode.UNAVAILABLE
    producer.end()


def test_writing_needs_the_scope_write(filled: FolderStore, redis_server: RedisServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("reader shop read\nwriter tracker write\nall ops\n")
    with query_tower_service(filled, features=redis_server.url, token_file=tokens, **PATIENT) as service:
        service.wait_until_serving()
        calls = (
            (service.stub.RecordEvents, lambda: pb.RecordEventsRequest(events=[event(1)])),
            (service.stub.RecordEventsStream, lambda: requests(1)),
            (service.stub.ForgetUser, lambda: pb.ForgetUserRequest(user_id="42")),
        )
        for method, make in calls:
            code, _, detail = failure(method, make(), metadata=[("authorization", "Bearer reader")])
            assert (code, dict(detail.metadata)) == ("PERMISSION_DENIED", {"scope": "write"})
            for token in ("writer", "all"):
                method(make(), metadata=[("authorization", f"Bearer {token}")], timeout=10)
        embed = pb.EmbedQueriesRequest(queries=[pb.Query()])
        code, _, detail = failure(service.stub.EmbedQueries, embed, metadata=[("authorization", "Bearer writer")])
        assert (code, dict(detail.metadata)) == ("PERMISSION_DENIED", {"scope": "read"})


def test_a_token_that_is_revoked_writes_no_further_message_of_an_open_stream(
    filled: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("writer tracker write\nother shop\n")
    with query_tower_service(filled, features=redis_server.url, token_file=tokens, **PATIENT) as service:
        producer = Producer(service, token="writer")
        producer.send()
        wait_for(lambda: count(redis_server) == 1, "the message is written")
        tokens.write_text("other shop\n")  # read again within a second or so

        def is_ended() -> bool:
            producer.send()
            return producer.call.done()

        wait_for(is_ended, "the stream is refused")
        assert producer.call.exception(10).code() is grpc.StatusCode.UNAUTHENTICATED
        producer.end()


def test_forgetting_leaves_no_key_that_names_the_user(served: Running, redis_server: RedisServer) -> None:
    record(served, event(1, "forget-me"), event(2, "forget-me"), event(1, "keep-me"))
    done = served.stub.ForgetUser(pb.ForgetUserRequest(user_id="forget-me"), timeout=10)
    assert (done.events, done.profile_values, done.remaining) == (2, 0, 0)
    with redis.Redis(port=redis_server.port) as client:
        contents = b"".join(key + (client.dump(key) or b"") for key in client.scan_iter())
    assert b"forget-me" not in contents
    assert b"keep-me" in contents


def test_many_writers_lose_and_double_nothing(served: Running, redis_server: RedisServer) -> None:
    def write(writer: int) -> None:
        for number in range(20):
            # Each event is sent by two writers.
            record(served, event(20 * (writer // 2) + number, f"u{writer // 2}"))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with redis.Redis(port=redis_server.port) as client:
        assert [client.zcard(f"two-tower:{{u{user}}}:order") for user in range(4)] == [20] * 4
