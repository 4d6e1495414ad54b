"""Queries that name users, answered by running services with a real Redis server."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.stored_features import StoredFeatures
from retrieval.live_features.feature_store import FeatureStore
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import Running, failure, fields, process, query_tower_service
from tests.query_tower_service.world import (
    NOT_CONFIGURED,
    PATIENT,
    PROFILE,
    UNKNOWN,
    USED,
    WATCHED,
    embed,
    put_user,
    query,
    record,
)
from tests.retrieval.live_features.world import put_histories, run
from tests.worlds import wait_for, write_bundle
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc


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


def test_histories_that_are_too_large_together_are_refused(served: Running, redis_server: RedisServer) -> None:
    put_histories(redis_server, 1, 1000)
    queries = [query("h0")] * 900
    assert list(embed(served, *queries).stored_features) == [USED] * 900
    request = pb.EmbedQueriesRequest(queries=queries, return_histories=True)
    code, message, detail = failure(served.stub.EmbedQueries, request, timeout=60)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["return_histories"]), message
    assert len(embed(served, *queries[:400], return_histories=True, timeout=60).histories) == 400


def test_what_queries_share_is_counted_once_and_decoded_once(redis_server: RedisServer) -> None:
    put_histories(redis_server, 1, 10)

    async def work(store: FeatureStore) -> None:
        stored = StoredFeatures(store, 1000, FeatureMetrics(CollectorRegistry()))
        lookup = await stored.look_up(dict.fromkeys(range(50), "h0"), 50, 1000, math.inf)
        assert lookup.total_bytes == lookup.size_bytes(0) > 0
        users = [lookup.user(row) for row in range(50)]
        assert users[0] is not None
        assert all(user is users[0] for user in users)
        assert lookup.statuses == [USED] * 50

    run(redis_server, work)


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


def test_the_query_log_has_the_stored_features_that_were_used_and_no_user(
    filled: FolderStore, redis_server: RedisServer, tmp_path: Path
) -> None:
    put_user(redis_server, "user-4711")
    log = tmp_path / "queries.jsonl"
    with query_tower_service(
        filled, features=redis_server.url, query_log=log, query_log_share=1.0, **PATIENT
    ) as service:
        service.wait_until_serving()
        by_id = embed(service, query("user-4711", age=[61.0]))
    assert "user-4711" not in log.read_text()
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line == {"features": {**PROFILE, "age": [61.0], "watched": WATCHED}}
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        assert embed(service, query(**line["features"])).embeddings[0] == by_id.embeddings[0]


def test_workers_have_connections_of_their_own(filled: FolderStore, redis_server: RedisServer, tmp_path: Path) -> None:
    put_user(redis_server)
    flags = ("--workers", "2", "--features", redis_server.url, "--features-timeout-s", "5")
    with process("query_tower_service", filled, tmp_path, *flags) as (_, port):
        workers = set[int]()

        def ask() -> bool:
            with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = query_tower_service_pb2_grpc.QueryTowerServiceStub(channel)
                request = pb.EmbedQueriesRequest(queries=[query("42")])
                answer = stub.EmbedQueries(request, timeout=20, wait_for_ready=True)
                assert list(answer.stored_features) == [USED]
                workers.add(stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=20).worker)
            return workers == {1, 2}

        wait_for(ask, "both workers have answered")
