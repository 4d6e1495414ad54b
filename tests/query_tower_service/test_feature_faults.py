"""A feature store that is away, slow, full or unreadable, and settings that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from query_tower_service.config import QueryTowerConfig
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import ROOT, Running, failure, query_tower_service
from tests.query_tower_service.world import (
    PATIENT,
    UNAVAILABLE,
    UNKNOWN,
    USED,
    WATCHED,
    embed,
    free_port,
    measured,
    metric,
    put_user,
    query,
)
from tests.retrieval.live_features.world import put_histories
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb


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
            code, message, detail = failure(method, request)
            assert (code, detail.reason) == ("UNAVAILABLE", "FEATURE_STORE")
            assert str(redis_server.port) not in message  # an address of ours is no business of callers
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


def test_of_a_batch_that_takes_too_long_the_queries_that_were_answered_in_time_are_used(
    filled: FolderStore, redis_server: RedisServer
) -> None:
    queries = [query(user_id) for user_id in put_histories(redis_server, 300, 1000)]
    with query_tower_service(filled, features=redis_server.url, features_timeout_s=0.05) as service:
        service.wait_until_serving()
        wait_for(
            lambda: set(embed(service, *queries, return_histories=True).stored_features) == {USED, UNAVAILABLE},
            "a part of a batch is answered",
        )


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


@pytest.mark.parametrize(
    "event", ['["\\ud800",1.0]', f'["i1",{"9" * 400}]', '["i1",1e400]', '["i1",NaN]', '["i1",1e300]', '["",1.0]']
)
def test_an_event_that_cannot_be_one_concerns_its_user_alone(
    served: Running, redis_server: RedisServer, event: str
) -> None:
    put_user(redis_server)
    redis_server.ask("ZADD", "two-tower:{43}:order", "1", "1")
    redis_server.ask("HSET", "two-tower:{43}:events", "1", event)
    answer = embed(served, query("43"), query("42"), return_histories=True)
    assert list(answer.stored_features) == [UNAVAILABLE, USED]
    assert [list(each.item_ids) for each in answer.histories] == [[], WATCHED]


def test_a_profile_value_that_no_float_can_hold_counts_as_missing(served: Running, redis_server: RedisServer) -> None:
    redis_server.ask("HSET", "two-tower:{43}:profile", "age", f"[{'9' * 400}]", "gender", '["f"]')
    answer = embed(served, query("43"))
    assert list(answer.stored_features) == [USED]
    assert answer.embeddings[0] == embed(served, query(gender=["f"])).embeddings[0]


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


def test_queries_that_wait_for_the_store_count_as_in_flight_and_hold_up_nobody(
    filled: FolderStore, redis_server: RedisServer
) -> None:
    with query_tower_service(filled, features=redis_server.url, features_timeout_s=30.0, max_in_flight=20) as service:
        service.wait_until_serving()
        redis_server.freeze()
        request = pb.EmbedQueriesRequest(queries=[query("42")])
        waiting = [service.stub.EmbedQueries.future(request, timeout=30) for _ in range(19)]
        try:
            # No thread waits for the store: others are answered at once, until the limit of calls is reached.
            for _ in range(20):
                assert not embed(service, query(), timeout=10).stored_features
            waiting.append(service.stub.EmbedQueries.future(request, timeout=30))
            wait_for(
                lambda: failure(service.stub.EmbedQueries, request)[0] == "RESOURCE_EXHAUSTED", "all room is taken"
            )
        finally:
            redis_server.thaw()
        assert [list(call.result(30).stored_features) for call in waiting] == [[UNKNOWN]] * 20
