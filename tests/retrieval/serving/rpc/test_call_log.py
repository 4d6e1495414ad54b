"""Request ids and log lines of calls to a real service."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from retrieval.inference.query_tower import QueryTower
from retrieval.store.folder_store import FolderStore
from tests.harness import process, query_tower_service
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc as pb_grpc
from two_tower_client import InvalidRequest
from two_tower_client.query_tower import QueryTowerClient

REQUEST = pb.EmbedQueriesRequest(queries=[pb.Query()])
WRONG = pb.EmbedQueriesRequest()  # no queries


def request_ids(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """Returns the request ids in the details and in the trailing metadata of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=10, **options)
    error: Any = caught.value
    details = error_details_pb2.RequestInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert sum(detail.Unpack(details) for detail in status.details) == 1
    return details.request_id, dict(error.trailing_metadata())["x-request-id"]


def test_an_error_has_the_request_id_that_the_caller_sent(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        for sent in ("a", "order-17/retry:2", "~" * 128):
            ids = request_ids(service.stub.EmbedQueries, WRONG, metadata=[("x-request-id", sent)])
            assert ids == (sent, sent)


@pytest.mark.parametrize("sent", [None, "", "two words", "x" * 129])
def test_an_error_has_a_new_request_id_if_none_or_an_invalid_one_was_sent(
    filled: FolderStore, sent: str | None
) -> None:
    metadata = None if sent is None else [("x-request-id", sent)]
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        first, second = (request_ids(service.stub.EmbedQueries, WRONG, metadata=metadata) for _ in range(2))
        assert re.fullmatch("[0-9a-f]{32}", first[0])
        assert first[0] == first[1]
        assert first != second


def test_an_error_of_credentials_or_of_reflection_has_the_request_id(filled: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    metadata = [("x-request-id", "id-7")]
    with query_tower_service(filled, token_file=tmp_path / "token") as service:
        service.wait_until_serving()
        assert request_ids(service.stub.EmbedQueries, REQUEST, metadata=metadata) == ("id-7", "id-7")

        def reflect(requests: Any, **options: Any) -> None:
            list(reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo(requests, **options))

        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        assert request_ids(reflect, requests, metadata=metadata) == ("id-7", "id-7")


def test_a_bug_is_logged_with_the_request_id_that_the_caller_is_told(
    filled: FolderStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        monkeypatch.setattr(QueryTower, "embed_and_count", lambda *_: {}["inner secret"])
        told, _ = request_ids(service.stub.EmbedQueries, REQUEST)
    assert told in capsys.readouterr().out


def test_a_line_says_what_failed_and_never_repeats_values(filled: FolderStore, tmp_path: Path) -> None:
    with process("query_tower_service", filled, tmp_path, "--drain-delay-s", "0") as (child, port):
        with QueryTowerClient(f"127.0.0.1:{port}", caller="shop", timeout_s=20) as client:
            client.embed([{"age": 30.0}])
            with pytest.raises(InvalidRequest) as caught:
                client.embed([{"age": "se3ret"}])
        _stop(child)
        lines = _lines(tmp_path)
    (line,) = [line for line in lines if line["event"] == "call failed"]
    assert line["request_id"] == caught.value.request_id
    expected = {
        "level": "info",
        "method": "EmbedQueries",
        "code": "INVALID_ARGUMENT",
        "caller": "/shop",
        "field": 'queries[0].features["age"]',
    }
    assert {key: line[key] for key in expected} == expected
    assert line["bundle_version"] == filled.live().version  # pyright: ignore[reportOptionalMemberAccess]
    assert {"queue_s", "work_s", "request_bytes"} <= line.keys()
    assert "se3ret" not in json.dumps(lines)
    # The call that was answered has no line, since log_share is 0 by default.
    assert "call answered" not in {line["event"] for line in lines}


def test_logs_answered_calls_by_their_share(filled: FolderStore, tmp_path: Path) -> None:
    with process("query_tower_service", filled, tmp_path, "--log-share", "1", "--drain-delay-s", "0") as (child, port):
        with QueryTowerClient(f"127.0.0.1:{port}", timeout_s=20) as client:
            for number in range(3):
                client.embed([{"age": 30.0}], request_id=f"id-{number}")
        _stop(child)
        lines = _lines(tmp_path)
    answered = [line for line in lines if line["event"] == "call answered"]
    assert [line["request_id"] for line in answered] == ["id-0", "id-1", "id-2"]


def test_a_flood_of_failures_writes_few_lines_and_counts_all(filled: FolderStore, tmp_path: Path) -> None:
    flood = 3000
    with process("query_tower_service", filled, tmp_path, "--drain-delay-s", "0") as (child, port):
        log = tmp_path / "query_tower_service.log"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.QueryTowerServiceStub(channel)
            codes: Counter[str] = Counter()
            for _ in range(flood // 100):
                calls = [stub.EmbedQueries.future(WRONG, timeout=20) for _ in range(100)]
                codes.update(call.exception().code().name for call in calls)
        assert codes == {"INVALID_ARGUMENT": flood}
        _stop(child)
        lines = _lines(tmp_path)
    singles = [line for line in lines if line["event"] == "call failed"]
    summaries = [line for line in lines if line["event"] == "failed calls without a line of their own"]
    assert len(singles) + sum(line["count"] for line in summaries) == flood
    assert {(line["method"], line["code"]) for line in summaries} == {("EmbedQueries", "INVALID_ARGUMENT")}
    # 20 lines at once, and one a second; 3,000 lines would take about a megabyte.
    assert 20 <= len(singles) < 200
    assert log.stat().st_size < 100_000


def _stop(child: Any) -> None:
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "query_tower_service.log").read_text().splitlines() if line[:1] == "{"
    ]
