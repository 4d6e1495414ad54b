"""The port that answers health in plain text beside a service with TLS, and the health of the process alone."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ann_service.app import assemble
from ann_service.config import AnnConfig
from tests.harness import LOOPS
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc as pb_grpc


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def service_with_tls(folder: Path) -> Iterator[tuple[int, int, grpc.Channel]]:
    """Runs a service with TLS, a token and an empty store; yields its port, its health port, and a channel to that."""
    key, certificate, tokens = folder / "key", folder / "certificate", folder / "tokens"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    tokens.write_text("secret\n")
    port = free_port()
    (folder / "store").mkdir()
    config = AnnConfig(
        store=folder / "store",
        port=0,
        health_port=port,
        tls_certificate=certificate,
        tls_key=key,
        token_file=tokens,
        drain_delay_s=1.0,
    )
    server = assemble(config)
    own_port = server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        drain = threading.Thread(target=server.drain)
        try:
            yield own_port, port, channel
        finally:
            drain.start()
            # Health is NOT_SERVING for the delay of the drain, and the process is still alive.
            assert check(channel, "liveness") == "SERVING"
            drain.join(20)
            assert not drain.is_alive()
            LOOPS.append(server._loop)


def check(channel: grpc.Channel, service: str) -> str:
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def test_answers_health_without_tls_and_token_and_offers_nothing_else(tmp_path: Path) -> None:
    with service_with_tls(tmp_path) as (port, _, channel):
        # Without a bundle the service must get no calls, and must not be restarted.
        assert check(channel, "") == "NOT_SERVING"
        assert check(channel, "liveness") == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.AnnServiceStub(channel).SearchItems(pb.SearchItemsRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        # The port of the service itself still wants TLS.
        with grpc.insecure_channel(f"127.0.0.1:{port}") as plain, pytest.raises(grpc.RpcError) as refused:
            check(plain, "")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_is_closed_after_the_drain(tmp_path: Path) -> None:
    with service_with_tls(tmp_path) as (_, port, _):
        pass

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_for(is_closed, "the health port is closed")


def test_connections_that_ask_nothing_are_closed(tmp_path: Path) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    with service_with_tls(tmp_path) as (_, port, channel), ExitStack() as opened:
        silent = list[socket.socket]()
        for said in (b"", preface[:10], b"GET / HTTP/1.1\r\n", preface + settings):
            silent.append(opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=40)))
            silent[-1].sendall(said)
        assert check(channel, "liveness") == "SERVING"
        for one in silent:
            while one.recv(4096):  # until the service has closed it; a timeout fails the test
                pass
        assert check(channel, "liveness") == "SERVING"


def test_a_connection_has_a_hundred_watches_and_room_for_probes_stays(tmp_path: Path) -> None:
    with service_with_tls(tmp_path) as (_, port, _):
        own = [("grpc.use_local_subchannel_pool", 1)]
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}", own) as greedy,
            grpc.insecure_channel(f"127.0.0.1:{port}", own) as probe,
        ):
            answered = list[int]()
            stub = health_pb2_grpc.HealthStub(greedy)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(150)]

            def read(watch: Iterator[health_pb2.HealthCheckResponse]) -> None:
                with suppress(grpc.RpcError):
                    answered.extend(each.status for each in watch)

            readers = [threading.Thread(target=read, args=(watch,)) for watch in watches]
            for reader in readers:
                reader.start()
            wait_for(lambda: len(answered) >= 100, "a hundred watches are answered")
            assert check(probe, "liveness") == "SERVING"
            assert len(answered) == 100
            for watch in watches:
                watch.cancel()
            for reader in readers:
                reader.join(20)


def test_each_worker_has_its_own_health_port() -> None:
    config = AnnConfig(store=Path("x"), workers=3, health_port=50060)
    assert [config.for_worker(number, 50052).health_port for number in (1, 2, 3)] == [50060, 50061, 50062]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"port": 50051, "health_port": 50051},
            "port 50051 and health_port 50051 overlap: both would use 50051; choose",
        ),
        (
            {"port": 9101, "health_port": 9100, "workers": 2},
            "port 9101 and health_port 9100 overlap: both would use 9101",
        ),
        ({"metrics_port": 9100, "health_port": 9101, "workers": 2}, "metrics_port 9100 and health_port 9101 overlap"),
        ({"health_port": -1}, "health_port is -1, expected 0 to 65535"),
    ],
)
def test_refuses_ports_that_overlap(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnConfig(store=Path("x"), **settings)  # type: ignore[arg-type]


def test_ports_that_are_neighbours_and_the_last_ports_can_be_used() -> None:
    config = AnnConfig(store=Path("x"), workers=2, port=50055, health_port=50053, metrics_port=65534)
    last = config.for_worker(2, 50055)
    assert (last.health_port, last.metrics_port) == (50054, 65535)
