"""Receiving calls: what a caller that is silent, late, wrong or unknown costs the others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from query_tower_service.embed_queries import EmbedQueries
from retrieval.serving.rpc import calls
from retrieval.store.folder_store import FolderStore
from tests.harness import Running, failure, query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb

REQUEST = pb.EmbedQueriesRequest(queries=[pb.Query()])
METHOD = "/two_tower.query.v1.QueryTowerService/EmbedQueries"


def silent(service: Running, count: int, metadata: Any = None) -> list[Any]:
    """Begins calls that send no message."""
    stream = service.channel.stream_unary(METHOD)

    def nothing() -> Iterator[bytes]:
        threading.Event().wait(30)
        yield b""

    return [stream.future(nothing(), metadata=metadata) for _ in range(count)]


def test_callers_whose_messages_do_not_come_keep_nobody_waiting(filled: FolderStore) -> None:
    with query_tower_service(filled, receive_timeout_s=60.0, drain_timeout_s=0.5) as service:
        service.wait_until_serving()
        waiting = silent(service, 50)
        with grpc.insecure_channel(f"127.0.0.1:{service.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            embed = channel.unary_unary(METHOD, response_deserializer=pb.EmbedQueriesResponse.FromString)
            for _ in range(20):
                assert len(embed(REQUEST.SerializeToString(), timeout=5).embeddings) == 1
        assert service.health() == "SERVING"
        assert service.status().models
        assert not any(call.done() for call in waiting)
    # Leaving the context drained the server: the silent callers did not keep it.
    for call in waiting:
        assert call.exception(10).code() is grpc.StatusCode.UNAVAILABLE


def test_a_message_that_does_not_come_in_time_ends_the_call(filled: FolderStore) -> None:
    with query_tower_service(filled, receive_timeout_s=0.1) as service:
        service.wait_until_serving()
        for call in silent(service, 3):
            error = call.exception(10)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not arrive within 0.1 s" in error.details()


def test_beyond_the_limit_the_call_that_was_silent_longest_is_ended(
    filled: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_RECEIVING", 4)
    with query_tower_service(filled, drain_timeout_s=0.1) as service:
        service.wait_until_serving()
        first = silent(service, 4)
        wait_for(lambda: failure(service.stub.EmbedQueries, pb.EmbedQueriesRequest())[0] == "INVALID_ARGUMENT", "asked")
        ended = wait_for(lambda: [call for call in first if call.done()], "one is ended")
        assert ended[0].exception(0).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(service.stub.EmbedQueries(REQUEST, timeout=5).embeddings) == 1


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"\x00" * 5000])
def test_what_cannot_be_decoded_is_invalid(filled: FolderStore, body: bytes) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        code, message, _ = failure(service.channel.unary_unary(METHOD), body)
        assert code == "INVALID_ARGUMENT"
        assert "not a serialized two_tower.query.v1.EmbedQueriesRequest" in message


def test_a_call_without_a_message_is_invalid(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        code, _, _ = failure(service.channel.stream_unary(METHOD), iter(()))
        assert code == "INVALID_ARGUMENT"


def test_the_token_is_checked_before_a_message_is_read(filled: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with query_tower_service(filled, token_file=tmp_path / "token") as service:
        service.wait_until_serving()
        for call in silent(service, 3):  # they never send a message
            assert call.exception(10).code() is grpc.StatusCode.UNAUTHENTICATED


def test_tokens_have_names_and_scopes_and_rotate(filled: FolderStore, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# two callers\nfirst shop read\n\nsecond ops read,admin\n")
    with query_tower_service(filled, token_file=path) as service:
        service.wait_until_serving()

        def embed(authorization: str) -> str:
            metadata = [("authorization", authorization)]
            try:
                service.stub.EmbedQueries(REQUEST, metadata=metadata, timeout=10)
            except grpc.RpcError as error:
                return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
            return "OK"

        assert [embed(sent) for sent in ("Bearer first", "bearer second", "BEARER  second", "Bearer third")] == [
            "OK",
            "OK",
            "OK",
            "UNAUTHENTICATED",
        ]
        status = service.stub.GetServingStatus
        code, message, _ = failure(status, pb.GetServingStatusRequest(), metadata=[("authorization", "Bearer first")])
        assert (code, "scope admin" in message) == ("PERMISSION_DENIED", True)
        assert status(pb.GetServingStatusRequest(), metadata=[("authorization", "Bearer second")], timeout=10).models
        path.write_text("third\n")
        wait_for(lambda: embed("Bearer third") == "OK", "the new token is valid")
        assert embed("Bearer first") == "UNAUTHENTICATED"
        path.write_text("too many words here\n")
        wait_for(lambda: service.health() == "SERVING", "it goes on")
        assert embed("Bearer third") == "OK"


def test_work_ends_soon_after_its_caller_has_left(filled: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    embed = EmbedQueries._embed

    def endless(method: EmbedQueries, call: Any) -> Any:
        if len(call.body) > 100:
            while True:
                steps.append(1)
                threading.Event().wait(0.001)
                yield
        return (yield from embed(method, call))

    monkeypatch.setattr(EmbedQueries, "_embed", endless)
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        many = pb.EmbedQueriesRequest(queries=[pb.Query()] * 100)
        assert failure(service.stub.EmbedQueries, many, timeout=0.2)[0] == "DEADLINE_EXCEEDED"
        cancelled = service.stub.EmbedQueries.future(many)
        assert len(service.stub.EmbedQueries(REQUEST, timeout=10).embeddings) == 1  # beside an endless one
        cancelled.cancel()

        def stands_still() -> bool:
            before = len(steps)
            threading.Event().wait(0.1)
            return len(steps) == before

        wait_for(stands_still, "no step is done for callers that have left")
        assert len(steps) > 10


def test_a_peer_that_speaks_no_http_is_dropped(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        with socket.create_connection(("127.0.0.1", service.port)) as peer:
            peer.sendall(b"\x16\x03\x01" + b"x" * 1000)
            assert len(service.stub.EmbedQueries(REQUEST, timeout=10).embeddings) == 1
