"""Queries that name users, answered by running services with a real Redis server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from query_tower_service.config import QueryTowerConfig
from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.records import Event, StoreLimits
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import ROOT, Running, failure, fields, query_tower_service
from tests.worlds import wait_for, write_bundle
from two_tower.query.v1 import query_tower_service_pb2 as pb

USED, UNKNOWN, UNAVAILABLE, NOT_CONFIGURED = (
    pb.STORED_FEATURES_USED,
    pb.STORED_FEATURES_UNKNOWN_USER,
    pb.STORED_FEATURES_UNAVAILABLE,
    pb.STORED_FEATURES_NOT_CONFIGURED,
)
PATIENT = {"features_timeout_s": 5.0, "features_write_timeout_s": 5.0}
PROFILE: dict[str, list[Any]] = {"age": [25.0], "gender": ["f"], "device": [7], "likes": ["comedy"]}
WATCHED = ["i1", "i2", "i3", "i4", "i5"]


@pytest.fixture
def served(filled: FolderStore, redis_server: RedisServer) -> Iterator[Running]:
    with query_tower_service(filled, features=redis_server.url, **PATIENT) as service:
        service.wait_until_serving()
        yield service


def put_user(server: RedisServer, user_id: str = "42", profile: dict[str, list[Any]] = PROFILE) -> None:
    events = [Event(item_id, user_id, item_id, float(number)) for number, item_id in enumerate(WATCHED)]
    with BulkWriter(server.url, StoreLimits()) as writer:
        writer.put(user_id, profile, events)


def query(user_id: str = "", **features: list[Any]) -> pb.Query:
    message = pb.Query(user_id=user_id)
    for name, values in features.items():
        kind = {str: "strings", int: "ints", float: "floats"}[type(values[0])] if values else "strings"
        target = getattr(message.features[name], kind)
        target.values.extend(values)
        target.SetInParent()
    return message


def embed(service: Running, *queries: pb.Query, timeout: float = 10, **request: Any) -> pb.EmbedQueriesResponse:
    return service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=queries, **request), timeout=timeout)


def record(service: Running, *item_ids: str, user_id: str = "42") -> pb.RecordEventsResponse:
    now = time.time()
    events = [pb.Event(event_id=each, user_id=user_id, item_id=each, time=now) for each in item_ids]
    return service.stub.RecordEvents(pb.RecordEventsRequest(events=events), timeout=10)


def test_a_user_alone_gets_the_embedding_of_all_its_features(served: Running, redis_server: RedisServer) -> None:
    put_user(redis_server)
    alone, carried = embed(served, query("42")), embed(served, query(**PROFILE, watched=WATCHED))
    assert list(alone.stored_features) == [USED]
    assert list(carried.stored_features) == []
    assert alone.embeddings[0].SerializeToString() == carried.embeddings[0].SerializeToString()
    assert embed(served, query()).embeddings[0] != carried.embeddings[0]


@pytest.mark.parametrize(
    "carried",
    [
        {"age": [61.0]},
        {"gender": []},
        {"likes": ["drama", "horror"]},
        {"watched": ["i9"]},
        {"watched": [], "age": [2.0]},
    ],
)
def test_what_the_query_carries_wins_feature_by_feature(
    served: Running, redis_server: RedisServer, carried: dict[str, list[Any]]
) -> None:
    put_user(redis_server)
    merged, expected = embed(served, query("42", **carried)), query(**{**PROFILE, "watched": WATCHED, **carried})
    assert merged.embeddings[0] == embed(served, expected).embeddings[0]
    assert merged.embeddings[0] != embed(served, query("42")).embeddings[0]


def test_each_query_of_a_batch_has_an_outcome_and_the_answer_that_it_has_alone(
    served: Running, redis_server: RedisServer
) -> None:
    for number in range(100):
        put_user(redis_server, f"u{number}", {"age": [float(number)]})
    queries = [query(f"u{number}") if number % 3 else query(age=[1.0]) for number in range(100)]
    queries[50], queries[52] = query("nobody"), query("u1")
    answer = embed(served, *queries)
    outcomes = [USED if number % 3 else 0 for number in range(100)]
    outcomes[50] = UNKNOWN
    assert list(answer.stored_features) == outcomes
    for number in (0, 1, 49, 50, 51, 52, 99):
        (alone,) = embed(served, queries[number]).embeddings
        assert list(answer.embeddings[number].values) == pytest.approx(list(alone.values), abs=1e-6)


def test_a_query_without_a_user_has_the_same_bytes_with_and_without_a_store(
    served: Running, filled: FolderStore
) -> None:
    requests = [
        pb.EmbedQueriesRequest(queries=[query(**PROFILE, watched=WATCHED)]),
        pb.EmbedQueriesRequest(queries=[query(), query(age=[1.0])]),
        pb.EmbedQueriesRequest(queries=[query(watched=["gone"] * 100)] * 200),  # decoded in parts
    ]
    with query_tower_service(filled) as plain:
        plain.wait_until_serving()
        for request in requests:
            answers = [each.stub.EmbedQueries(request, timeout=10).SerializeToString() for each in (served, plain)]
            assert answers[0] == answers[1]
            assert pb.EmbedQueriesResponse.FromString(answers[0]).stored_features == []


def test_without_a_store_a_query_goes_on_with_what_it_carries(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        answer = embed(service, query("42", age=[25.0]), query(), return_histories=True)
        assert list(answer.stored_features) == [NOT_CONFIGURED, 0]
        assert answer.embeddings[0] == embed(service, query(age=[25.0]), query()).embeddings[0]
        assert [list(history.item_ids) for history in answer.histories] == [[], []]
        event = pb.Event(event_id="1", user_id="42", item_id="i1", time=1.0)
        for method, request in (
            (service.stub.RecordEvents, pb.RecordEventsRequest(events=[event])),
            (service.stub.RecordEventsStream, iter([pb.RecordEventsStreamRequest(events=[event])])),
            (service.stub.ForgetUser, pb.ForgetUserRequest(user_id="42")),
        ):
            code, message, detail = failure(method, request)
            assert (code, detail.reason) == ("FAILED_PRECONDITION", "NO_FEATURE_STORE")
            assert "--features" in message


def test_histories_are_returned_if_they_are_asked_for(served: Running, redis_server: RedisServer) -> None:
    put_user(redis_server)
    queries = [query("42"), query("42", watched=["i7"]), query(watched=["i8"]), query("nobody"), query()]
    answer = embed(served, *queries, return_histories=True)
    # All that is stored, not only the four that the model reads.
    assert [list(each.item_ids) for each in answer.histories] == [WATCHED, ["i7"], ["i8"], [], []]
    assert not embed(served, *queries).histories


def test_what_was_recorded_is_read_by_the_next_query_at_another_replica(
    served: Running, filled: FolderStore, redis_server: RedisServer
) -> None:
    with query_tower_service(filled, features=redis_server.url, **PATIENT) as other:
        other.wait_until_serving()
        watched: list[str] = []
        for number in range(30):
            watched.append(f"i{number}")
            assert record(served, watched[-1]).recorded == 1
            answer = embed(other, query("42"), return_histories=True)
            assert list(answer.histories[0].item_ids) == watched
            assert answer.embeddings[0] == embed(other, query(watched=watched)).embeddings[0]


def test_users_are_answered_while_bundles_are_swapped(
    served: Running, filled: FolderStore, redis_server: RedisServer
) -> None:
    put_user(redis_server)
    stop, problems, models = threading.Event(), list[str](), set[str]()

    def call() -> None:
        while not stop.is_set():
            answer = embed(served, query("42"), query(**PROFILE, watched=WATCHED))
            models.add(answer.model_version)
            if answer.embeddings[0] != answer.embeddings[1] or answer.stored_features != [USED, 0]:
                problems.append(str(answer.stored_features))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for seed in (2, 1, 2):
        manifest = write_bundle(filled, seed=seed)
        wait_for(lambda version=manifest.model_version: version in models, "a user is answered by the new model")
    stop.set()
    for caller in callers:
        caller.join(20)
    assert problems == []
    assert len(models) == 4


@pytest.mark.parametrize("user_id", ["}", "{}", "a\r\nFLUSHALL\r\n", "\x00", "x" * 1024, "*", "é" * 1024])
def test_hostile_user_ids_are_ids(served: Running, redis_server: RedisServer, user_id: str) -> None:
    assert record(served, "i1", "i2", user_id=user_id).recorded == 2
    answer = embed(served, query(user_id), return_histories=True)
    assert (list(answer.stored_features), list(answer.histories[0].item_ids)) == ([USED], ["i1", "i2"])
    gone = served.stub.ForgetUser(pb.ForgetUserRequest(user_id=user_id), timeout=10)
    assert (gone.events, gone.remaining) == (2, 0)
    assert list(embed(served, query(user_id)).stored_features) == [UNKNOWN]
    assert redis_server.ask("DBSIZE") == ":0"


def test_user_ids_that_are_too_long_are_refused_before_they_are_looked_up(
    served: Running, redis_server: RedisServer
) -> None:
    redis_server.freeze()  # whatever is looked up takes long
    try:
        for user_id in ("x" * 1025, "x" * 10_000, "x" * 1_000_000):
            request = pb.EmbedQueriesRequest(queries=[query(), query(user_id)])
            code, _, detail = failure(served.stub.EmbedQueries, request, timeout=3)
            assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["queries[1].user_id"])
        code, _, detail = failure(served.stub.ForgetUser, pb.ForgetUserRequest(user_id="x" * 1_000_000), timeout=3)
        assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["user_id"])
        # Beyond the size of a request, and of a query, they are not even decoded.
        request = pb.EmbedQueriesRequest(queries=[query("x" * 10_000_000)])
        assert failure(served.stub.EmbedQueries, request, timeout=3)[0] == "RESOURCE_EXHAUSTED"
        request = pb.EmbedQueriesRequest(queries=[query("x" * 2_000_000)])
        assert failure(served.stub.EmbedQueries, request, timeout=3)[0] == "INVALID_ARGUMENT"
    finally:
        redis_server.thaw()


@contextmanager
def measured(filled: FolderStore, server: RedisServer, port: int, **settings: Any) -> Iterator[Running]:
    with query_tower_service(filled, features=server.url, metrics_port=port, **settings) as service:
        service.wait_until_serving()
        yield service


def metric(port: int, name: str, **labels: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_open(service: Running, port: int) -> bool:
    embed(service, query("42"))
    return metric(port, "two_tower_feature_circuit", operation="read") == 2


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_queries_go_on_without_the_store_and_say_so(filled: FolderStore, redis_server: RedisServer, fault: str) -> None:
    put_user(redis_server)
    port = free_port()
    with measured(filled, redis_server, port, features_timeout_s=0.5, features_write_timeout_s=0.5) as service:
        with_store = embed(service, query("42", age=[25.0]))
        assert list(with_store.stored_features) == [USED]
        if fault == "killed":
            redis_server.kill()
        else:
            redis_server.freeze()
        carried = embed(service, query(age=[25.0])).embeddings[0]
        for _ in range(8):
            # Half of its time is left for the answer, so this is no matter of luck.
            answer = embed(service, query("42", age=[25.0]), timeout=5)
            assert list(answer.stored_features) == [UNAVAILABLE]
            assert answer.embeddings[0] == carried
        # A write that was not answered in time may still be done later, so it is one of another user.
        event = pb.Event(event_id="1", user_id="other", item_id="i1", time=1.0)
        for method, request in (
            (service.stub.RecordEvents, pb.RecordEventsRequest(events=[event])),
            (service.stub.ForgetUser, pb.ForgetUserRequest(user_id="other")),
        ):
            code, _, detail = failure(method, request)
            assert (code, detail.reason) == ("UNAVAILABLE", "FEATURE_STORE")
        assert metric(port, "two_tower_feature_lookups_total", outcome="unavailable") >= 8
        assert metric(port, "two_tower_feature_lookups_total", outcome="used") == 1
        wait_for(lambda: is_open(service, port), "the circuit opens")
        assert metric(port, "two_tower_feature_write_faults_total") == 2
        assert service.health() == "SERVING"
        if fault == "killed":
            redis_server.start()
            put_user(redis_server)
        else:
            redis_server.thaw()
        wait_for(lambda: list(embed(service, query("42")).stored_features) == [USED], "the store is used again")
        assert embed(service, query("42", age=[25.0])).embeddings[0] == with_store.embeddings[0]
        assert metric(port, "two_tower_feature_circuit", operation="read") == 0


def test_a_lookup_leaves_half_of_the_time_of_its_caller(filled: FolderStore, redis_server: RedisServer) -> None:
    with query_tower_service(filled, features=redis_server.url, features_timeout_s=60.0) as service:
        service.wait_until_serving()
        redis_server.freeze()
        try:
            assert list(embed(service, query("42"), timeout=2).stored_features) == [UNAVAILABLE]
        finally:
            redis_server.thaw()


def test_a_full_store_is_read_and_a_flushed_one_knows_nobody(served: Running, redis_server: RedisServer) -> None:
    put_user(redis_server)
    redis_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_server.ask("CONFIG", "SET", "maxmemory", "1")
    assert list(embed(served, query("42")).stored_features) == [USED]
    request = pb.RecordEventsRequest(events=[pb.Event(event_id="9", user_id="42", item_id="i9", time=9.0)])
    code, message, detail = failure(served.stub.RecordEvents, request)
    assert (code, detail.reason) == ("UNAVAILABLE", "FEATURE_STORE")
    assert "full" in message
    redis_server.ask("CONFIG", "SET", "maxmemory", "0")
    redis_server.ask("FLUSHALL")
    redis_server.ask("SCRIPT", "FLUSH")
    assert list(embed(served, query("42")).stored_features) == [UNKNOWN]
    assert served.stub.RecordEvents(request, timeout=10).recorded == 1
    assert list(embed(served, query("42")).stored_features) == [USED]


def test_stored_values_that_the_model_cannot_read_count_as_missing(
    filled: FolderStore, redis_server: RedisServer
) -> None:
    put_user(redis_server, profile={"age": ["old"], "gender": ["f"], "gone": [1], "watched": ["i9"]})
    port = free_port()
    with measured(filled, redis_server, port, **PATIENT) as service:
        answer = embed(service, query("42"))
        assert list(answer.stored_features) == [USED]
        assert answer.embeddings[0] == embed(service, query(gender=["f"], watched=WATCHED)).embeddings[0]
        assert metric(port, "two_tower_feature_wrong_values_total") == 1
        redis_server.ask("SET", "two-tower:{43}:order", "written by others")
        assert list(embed(service, query("43"), query("42")).stored_features) == [UNAVAILABLE, USED]
        assert metric(port, "two_tower_feature_lookups_total", outcome="unreadable") == 1


def test_a_service_without_a_store_imports_no_redis(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from query_tower_service.app import assemble;"
        "from query_tower_service.config import QueryTowerConfig;"
        "assemble(QueryTowerConfig(store=sys.argv[1]));"
        "print([name for name in sys.modules if name.split('.')[0] == 'redis'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == "[]\n"


def test_a_password_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "query_tower_service", "--store", str(tmp_path), "--features", "redis://:s3cret@cache"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert "features_password_file" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "settings",
    [
        {"features": "http://cache"},
        {"features_max_events": 0},
        {"features_keep_days": 0.0},
        {"features_prefix": "{}"},
        {"features_timeout_s": 0.0},
        {"features_password_file": Path("password")},
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"features|expected"):
        QueryTowerConfig(store=str(tmp_path), **settings)
