"""The health service, and its watchers."""

from __future__ import annotations

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from retrieval.serving.rpc.health import Health
from retrieval.store.folder_store import FolderStore
from tests.harness import query_tower_service

STATUS = health_pb2.HealthCheckResponse


def test_unknown_service_is_not_found_by_check_and_unknown_to_watch(store: FolderStore) -> None:
    with query_tower_service(store) as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watcher = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=10)
        assert next(watcher).status == STATUS.SERVICE_UNKNOWN
        watcher.cancel()


def test_never_hangs_while_watchers_connect_and_disconnect(store: FolderStore) -> None:
    with query_tower_service(store) as service:
        stub, ended = health_pb2_grpc.HealthStub(service.channel), threading.Event()

        def come_and_go() -> None:
            while not ended.is_set():
                watcher = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
                next(watcher)
                watcher.cancel()

        watchers = [threading.Thread(target=come_and_go, daemon=True) for _ in range(4)]
        for watcher in watchers:
            watcher.start()
        for _ in range(100):
            assert service.health() == "NOT_SERVING"
        ended.set()
        for watcher in watchers:
            watcher.join(20)
            assert not watcher.is_alive()
    # Leaving the context drained the server, which ends every watch.


def test_stays_not_serving_while_draining() -> None:
    health = Health(("",))
    health.set_serving(True)
    assert health._status == STATUS.SERVING
    health.drain()
    health.set_serving(True)
    assert health._status == STATUS.NOT_SERVING


def test_a_request_that_cannot_be_decoded_is_invalid(store: FolderStore) -> None:
    with query_tower_service(store) as service:
        for method in ("Check", "Watch"):
            call = service.channel.unary_stream(f"/grpc.health.v1.Health/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                list(call(b"\xff\xff", timeout=10))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
