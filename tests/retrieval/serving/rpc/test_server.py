"""The server of a service: credentials, limits, deadlines, errors, health, reflection, metrics."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from query_tower_service.config import QueryTowerConfig
from query_tower_service.embed_queries import EmbedQueries
from retrieval.inference.query_tower import QueryTower
from retrieval.store.folder_store import FolderStore
from tests.harness import Running, failure, query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc as pb_grpc

REQUEST = pb.EmbedQueriesRequest(queries=[pb.Query()])


class Blocked:
    """Blocks every query tower until `release` is set; `entered` counts the blocked calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.release = threading.Semaphore(0), threading.Event()
        embed = QueryTower.embed_and_count

        def blocked(tower: QueryTower, columns: Any, row_count: int) -> Any:
            self.entered.release()
            assert self.release.wait(20)
            return embed(tower, columns, row_count)

        monkeypatch.setattr(QueryTower, "embed_and_count", blocked)
        # In the threads for long calls: the event loop must go on.
        monkeypatch.setattr(EmbedQueries, "is_short", lambda *_: False)


def test_token_is_required_except_for_health(filled: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with query_tower_service(filled, token_file=tmp_path / "token") as service:
        service.wait_until_serving()
        for wrong in (None, [("authorization", "Bearer wrong")], [("authorization", "s3cret")]):
            code, message, _ = failure(service.stub.EmbedQueries, REQUEST, metadata=wrong)
            assert code == "UNAUTHENTICATED"
            assert "s3cret" not in message
        code, _, _ = failure(service.stub.GetServingStatus, pb.GetServingStatusRequest())
        assert code == "UNAUTHENTICATED"
        right = [("authorization", "Bearer s3cret")]
        assert len(service.stub.EmbedQueries(REQUEST, metadata=right, timeout=10).embeddings) == 1
        reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection.ServerReflectionInfo(requests, timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_refuses_calls_beyond_the_limit_while_health_answers(
    filled: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with query_tower_service(filled, threads=1, max_in_flight=1) as service:
        service.wait_until_serving()
        blocked = Blocked(monkeypatch)
        first = service.stub.EmbedQueries.future(REQUEST, timeout=20)
        assert blocked.entered.acquire(timeout=10)
        wait_for(lambda: overloaded(service), "a call is refused")
        assert service.health() == "SERVING"
        assert service.status().models
        blocked.release.set()
        assert len(first.result(20).embeddings) == 1
        wait_for(lambda: not overloaded(service), "calls are accepted again")


def overloaded(service: Running) -> bool:
    try:
        service.stub.EmbedQueries(REQUEST, timeout=0.05)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            _, _, detail = failure(service.stub.EmbedQueries, REQUEST)
            assert (detail.reason, detail.domain) == ("OVERLOADED", "two-tower")
            return True
    return False


def test_call_that_nobody_waits_for_is_not_run(filled: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with query_tower_service(filled, threads=1) as service:
        service.wait_until_serving()
        blocked = Blocked(monkeypatch)
        first = service.stub.EmbedQueries.future(REQUEST, timeout=20)
        assert blocked.entered.acquire(timeout=10)
        code, _, _ = failure(service.stub.EmbedQueries, REQUEST, timeout=0.05)
        assert code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # refused, unless its deadline passes before
        blocked.release.set()
        assert first.result(20)
        assert service.stub.EmbedQueries(REQUEST, timeout=10)
        # The first and the last call reached the tower, the second did not.
        assert blocked.entered.acquire(timeout=10)
        assert not blocked.entered.acquire(blocking=False)


def test_unexpected_exception_is_logged_and_hidden_from_the_caller(
    filled: FolderStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        monkeypatch.setattr(QueryTower, "embed_and_count", lambda *_: {}["inner secret"])
        code, message, _ = failure(service.stub.EmbedQueries, REQUEST)
        assert (code, "secret" in message) == ("INTERNAL", False)
    logged = capsys.readouterr()
    assert "KeyError" in logged.out + logged.err


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_describe_the_service(filled: FolderStore, version: str) -> None:
    with query_tower_service(filled) as service:
        ask = service.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        name = "two_tower.query.v1.QueryTowerService"
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
        ]
        listed, described = ask(iter(requests), timeout=10)
        assert name in [entry.name for entry in listed.list_services_response.service]
        assert any(b"EmbedQueries" in file for file in described.file_descriptor_response.file_descriptor_proto)


def test_idle_streams_keep_no_call_from_its_answer(filled: FolderStore) -> None:
    with query_tower_service(filled, threads=1) as service:
        service.wait_until_serving()
        release = threading.Event()

        def hold_open() -> Any:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            release.wait(20)

        stream = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo(hold_open(), timeout=20)
        names = [entry.name for entry in next(stream).list_services_response.service]
        assert sorted(names) == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "two_tower.query.v1.QueryTowerService",
        ]
        watchers = [
            health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            for _ in range(3)
        ]
        assert [next(watcher).status for watcher in watchers] == [health_pb2.HealthCheckResponse.SERVING] * 3
        assert service.stub.EmbedQueries(REQUEST, timeout=10)
        for watcher in watchers:
            watcher.cancel()
        release.set()
        stream.cancel()


def test_health_is_not_serving_during_the_drain(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        watcher = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watcher).status == health_pb2.HealthCheckResponse.SERVING
        statuses: list[int] = []
        reader = threading.Thread(target=lambda: statuses.append(next(watcher).status))
        reader.start()
    reader.join(20)
    assert statuses == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_refuses_to_listen_on_a_port_in_use(filled: FolderStore) -> None:
    with (
        query_tower_service(filled) as service,
        pytest.raises(ValueError, match="cannot listen"),
        query_tower_service(filled, port=service.port),
    ):
        raise AssertionError("two servers listen on one port")


def test_answers_over_tls_and_not_in_plain_text(filled: FolderStore, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    paths = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *paths], check=True, capture_output=True)
    with query_tower_service(filled, tls_certificate=certificate, tls_key=key) as service:
        code, _, _ = failure(service.stub.EmbedQueries, REQUEST)  # in plain text
        assert code == "UNAVAILABLE"
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{service.port}", credentials) as channel:
            stub = pb_grpc.QueryTowerServiceStub(channel)
            wait_for(lambda: stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=10).models, "it serves")
            assert len(stub.EmbedQueries(REQUEST, timeout=10).embeddings) == 1


def test_refuses_a_request_that_is_too_large(filled: FolderStore) -> None:
    with query_tower_service(filled, max_request_bytes=2048) as service:
        service.wait_until_serving()
        query = pb.Query()
        query.features["watched"].strings.values.extend(["i1"] * 1000)
        code, _, _ = failure(service.stub.EmbedQueries, pb.EmbedQueriesRequest(queries=[query]))
        assert code == "RESOURCE_EXHAUSTED"


def test_concurrent_callers_get_their_own_answers(filled: FolderStore) -> None:
    with query_tower_service(filled, threads=4) as service:
        service.wait_until_serving()

        def embed(age: int) -> tuple[float, ...]:
            query = pb.Query()
            query.features["age"].ints.values.append(age)
            response = service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[query]), timeout=20)
            return tuple(response.embeddings[0].values)

        alone = [embed(age) for age in range(20, 60)]
        assert len(set(alone)) == 40
        with ThreadPoolExecutor(8) as callers:
            for _ in range(5):
                assert list(callers.map(embed, range(20, 60))) == alone


def test_metrics_count_calls_by_code(filled: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.serving.runtime.metrics import Metrics

    ports: list[int] = []
    serve = Metrics.serve

    def on_a_free_port(metrics: Metrics, host: str, port: int) -> Any:
        found = serve(metrics, host, 0)
        ports.append(found[0])
        return found

    monkeypatch.setattr(Metrics, "serve", on_a_free_port)
    with query_tower_service(filled, metrics_port=1) as service:
        service.wait_until_serving()
        service.stub.EmbedQueries(REQUEST, timeout=10)
        failure(service.stub.EmbedQueries, pb.EmbedQueriesRequest())
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=10) as response:
            text = response.read().decode()
        assert 'two_tower_requests_total{code="OK",method="EmbedQueries"} 1.0' in text
        assert 'two_tower_requests_total{code="INVALID_ARGUMENT",method="EmbedQueries"} 1.0' in text
        assert 'two_tower_batch_size_count{method="EmbedQueries"} 1.0' in text
        assert "two_tower_longest_stall_seconds " in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "--insecure"),
        ({"host": "10.0.0.1", "token_file": Path("token")}, "--insecure"),
        ({"host": "db.example"}, "--insecure"),
        ({"threads": 0}, "threads is 0, expected 1 to 64"),
        ({"port": 70_000}, "port is 70000"),
        ({"metrics_port": 9100, "admin_port": 9102, "workers": 4}, "both would use 9102; 4 workers"),
        ({"poll_interval_s": float("nan")}, "poll_interval_s is nan"),
        ({"tls_key": Path("key")}, "belong together"),
        ({"tls_client_ca": Path("ca")}, "needs tls_certificate"),
        ({"log_level": "loud"}, "expected one of debug"),
    ],
)
def test_refuses_unusable_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryTowerConfig(store=Path("store"), **settings)


def test_allows_an_exposed_address_with_insecure_or_with_tls_and_token() -> None:
    QueryTowerConfig(store=Path("s"), host="0.0.0.0", insecure=True)
    tls = {"tls_certificate": Path("c"), "tls_key": Path("k"), "token_file": Path("t")}
    QueryTowerConfig(store=Path("s"), host="::", **tls)
    for host in ("127.0.0.2", "::1", "localhost"):
        QueryTowerConfig(store=Path("s"), host=host)


@pytest.mark.parametrize("content", [None, "", "schlüssel"])
def test_refuses_an_unusable_token_file(store: FolderStore, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="token_file"), query_tower_service(store, token_file=tmp_path / "token"):
        raise AssertionError("it starts")
