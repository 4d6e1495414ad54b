"""Certificates that change while a server runs."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from query_tower_service.config import QueryTowerConfig
from retrieval.serving.runtime.credentials import read_tls
from retrieval.serving.runtime.metrics import Metrics


def make_pair(folder: Path, name: str) -> tuple[bytes, bytes]:
    """Returns a new key and its certificate, PEM."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return key.read_bytes(), certificate.read_bytes()


class Served:
    """A server whose key and certificate are files."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        self.metrics = Metrics()
        self.port = 0

    def write(self, key: bytes, certificate: bytes) -> None:
        for path, content in ((self.key, key), (self.certificate, certificate)):
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").rename(path)

    def shown(self) -> bytes:
        """Returns the certificate that a new connection is shown, PEM."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=10).encode()

    def reloads(self, result: str) -> float:
        labels = {"file": "certificate", "result": result}
        return self.metrics.registry.get_sample_value("two_tower_credential_reloads_total", labels) or 0.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.write(*make_pair(tmp_path, "first"))
    config = QueryTowerConfig(store=tmp_path, tls_certificate=served.certificate, tls_key=served.key)
    credentials = read_tls(config, served.metrics)
    assert credentials is not None
    server = grpc.server(ThreadPoolExecutor(1))
    served.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield served
    server.stop(0).wait()


def test_the_next_connection_gets_a_new_certificate(served: Served, tmp_path: Path) -> None:
    assert served.shown() == served.certificate.read_bytes()
    key, certificate = make_pair(tmp_path, "second")
    served.write(key, certificate)
    assert served.shown() == certificate
    assert served.shown() == certificate
    assert (served.reloads("ok"), served.reloads("failed")) == (1, 0)


def test_a_certificate_of_another_key_is_counted_and_the_old_one_stays_until_the_key_comes(
    served: Served, tmp_path: Path
) -> None:
    first = served.shown()
    old_key = served.key.read_bytes()
    key, certificate = make_pair(tmp_path, "second")
    served.write(old_key, certificate)
    assert served.shown() == first
    assert (served.reloads("ok"), served.reloads("failed")) == (0, 1)
    served.write(key, certificate)
    assert served.shown() == certificate
    assert (served.reloads("ok"), served.reloads("failed")) == (1, 1)
