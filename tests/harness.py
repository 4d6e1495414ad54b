"""Real services on free ports, in this process or in another one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from ann_service.app import assemble as assemble_ann
from ann_service.config import AnnConfig
from query_tower_service.app import assemble as assemble_query_tower
from query_tower_service.config import QueryTowerConfig
from retrieval.store.folder_store import FolderStore
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2_grpc
from two_tower.query.v1 import query_tower_service_pb2_grpc

ROOT = Path(__file__).parents[1]
LOOPS: list[Any] = []
"""Loops of servers in this process. Once its last server is gone, gRPC lets go of them, and they would warn that nobody
closed them; a server cannot close its loop while a thread that hangs may still use it."""

FAST = {"poll_interval_s": 0.02, "retry_after_s": 60.0, "drain_delay_s": 0.0, "port": 0}


@dataclass(frozen=True)
class Running:
    """A running service, and a client of it."""

    port: int
    channel: grpc.Channel
    stub: Any
    status_request: Any

    def status(self) -> Any:
        return self.stub.GetServingStatus(self.status_request(), timeout=5)

    def health(self, service: str = "") -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    def wait_until_serving(self) -> None:
        wait_for(lambda: self.health() == "SERVING", "it serves")

    def wait_for_bundle(self, version: str) -> None:
        wait_for(lambda: self._first_bundle() == version, f"{version} answers")

    def _first_bundle(self) -> str:
        status = self.status()
        open_ = status.bundles if hasattr(status, "bundles") else status.models
        return open_[0].bundle_version if open_ and not status.loading_bundle_version else ""

    def wait_for_problem(self, version: str) -> Any:
        def find() -> Any:
            return next((p for p in self.status().problems if p.bundle_version == version), None)

        return wait_for(find, f"{version} is refused")


@contextmanager
def ann_service(store: FolderStore, **settings: Any) -> Iterator[Running]:
    """Runs an ANN service in this process."""
    from two_tower.ann.v1 import ann_service_pb2 as pb

    config = AnnConfig(store=store.root, **{**FAST, **settings})
    with _running(assemble_ann(config), ann_service_pb2_grpc.AnnServiceStub, pb.GetServingStatusRequest) as running:
        yield running


@contextmanager
def query_tower_service(store: FolderStore, **settings: Any) -> Iterator[Running]:
    """Runs a query tower service in this process."""
    from two_tower.query.v1 import query_tower_service_pb2 as pb

    config = QueryTowerConfig(store=store.root, **{**FAST, **settings})
    stub = query_tower_service_pb2_grpc.QueryTowerServiceStub
    with _running(assemble_query_tower(config), stub, pb.GetServingStatusRequest) as running:
        yield running


@contextmanager
def _running(server: Any, stub: Any, status_request: Any) -> Iterator[Running]:
    port = server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield Running(port, channel, stub(channel), status_request)
        finally:
            server.drain()
            LOOPS.append(server._loop)


@contextmanager
def process(
    program: str, store: FolderStore, folder: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs a service in another process; yields the process and its port."""
    port_file, log = folder / f"{program}.port", folder / f"{program}.log"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    command = [sys.executable, "-m", program, "--store", str(store.root), "--port-file", str(port_file)]
    if "--port" not in flags:
        command += ["--port", "0"]
    with log.open("wb") as stderr:
        child = subprocess.Popen([*command, *flags], env=environment, stderr=stderr, cwd=folder)
    try:
        wait_for(lambda: port_file.exists() or child.poll() is not None, f"{program} listens")
        assert child.poll() is None, log.read_text()
        yield child, int(port_file.read_text())
    finally:
        child.kill()
        child.wait()


def failure(call: Any, *arguments: Any, **options: Any) -> tuple[str, str, Any]:
    """Returns code, message and the first google.rpc detail of a call that fails."""
    try:
        call(*arguments, **{"timeout": 10, **options})
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        detail: Any = None
        if status is not None and status.details:
            for kind in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()):
                if status.details[0].Unpack(kind):
                    detail = kind
        return error.code().name, error.details(), detail
    raise AssertionError("the call did not fail")


def fields(detail: Any) -> list[str]:
    """Returns the field paths of a BadRequest."""
    return [violation.field for violation in detail.field_violations]
