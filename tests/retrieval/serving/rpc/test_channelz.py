"""The admin port. Needs the extra telemetry."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from retrieval.store.folder_store import FolderStore
from tests.harness import Running, failure, query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc as pb_grpc

pytest.importorskip("grpc_channelz", reason="needs the extra telemetry")

from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def admin(store: FolderStore, **settings: Any) -> Iterator[tuple[Running, grpc.Channel]]:
    """Runs a service with an admin port; yields the service and a channel to the admin port."""
    port = free_port()
    with (
        query_tower_service(store, admin_port=port, **settings) as service,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        wait_for(lambda: service.health() == "SERVING", "it serves")
        yield service, channel


def test_lists_the_servers_and_connections_of_the_process(filled: FolderStore) -> None:
    with admin(filled) as (service, channel):
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        servers = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=20).server
        local_ports = {
            _socket(stub, connection.socket_id).local.tcpip_address.port
            for server in servers
            for connection in stub.GetServerSockets(
                channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id), timeout=20
            ).socket_ref
        }
        assert service.port in local_ports
        code, message, _ = failure(stub.GetServer, channelz_pb2.GetServerRequest(server_id=10**9))
        assert (code, "GetServers" in message) == ("INVALID_ARGUMENT", True)


def test_offers_nothing_else_and_the_service_does_not_offer_it(filled: FolderStore) -> None:
    with admin(filled) as (service, channel):
        code, _, _ = failure(pb_grpc.QueryTowerServiceStub(channel).GetServingStatus, pb.GetServingStatusRequest())
        assert code == "UNIMPLEMENTED"
        stub = channelz_pb2_grpc.ChannelzStub(service.channel)
        assert failure(stub.GetServers, channelz_pb2.GetServersRequest())[0] == "UNIMPLEMENTED"


def test_needs_the_scope_admin_where_tokens_are_set(filled: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first shop read\nsecond ops admin\n")
    with admin(filled, token_file=tmp_path / "tokens") as (_, channel):
        get = channelz_pb2_grpc.ChannelzStub(channel).GetServers
        request = channelz_pb2.GetServersRequest()
        assert failure(get, request)[0] == "UNAUTHENTICATED"
        assert failure(get, request, metadata=[("authorization", "Bearer first")])[0] == "PERMISSION_DENIED"
        assert get(request, metadata=[("authorization", "Bearer second")], timeout=20).server


def test_callers_that_are_silent_keep_nobody_waiting(filled: FolderStore) -> None:
    with admin(filled, receive_timeout_s=0.2) as (_, channel):
        stream = channel.stream_unary("/grpc.channelz.v1.Channelz/GetServers")
        ended = threading.Event()

        def nothing() -> Iterator[bytes]:
            ended.wait(30)
            yield b""

        waiting = stream.future(nothing())
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        assert stub.GetServers(channelz_pb2.GetServersRequest(), timeout=20).server
        assert waiting.exception(20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        ended.set()


def test_speaks_tls_where_the_service_does(filled: FolderStore, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    paths = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *paths], check=True, capture_output=True)
    port = free_port()
    request = channelz_pb2.GetServersRequest()
    with query_tower_service(filled, admin_port=port, tls_certificate=certificate, tls_key=key) as service:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        for each in (service.port, port):  # both servers, whichever is called first
            with grpc.secure_channel(f"localhost:{each}", credentials) as channel:
                grpc.channel_ready_future(channel).result(20)
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            assert channelz_pb2_grpc.ChannelzStub(channel).GetServers(request, timeout=20).server
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            assert failure(channelz_pb2_grpc.ChannelzStub(channel).GetServers, request)[0] == "UNAVAILABLE"


def _socket(stub: Any, socket_id: int) -> Any:
    return stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=socket_id), timeout=20).socket
