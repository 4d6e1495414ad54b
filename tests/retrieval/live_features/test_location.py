"""URLs of feature stores."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from retrieval.live_features.credentials import client_options
from retrieval.live_features.errors import StoreUnavailable
from retrieval.live_features.feature_store import FeatureStore
from retrieval.live_features.location import parse_location
from retrieval.live_features.records import Appended
from testbed.redis_server import NoRedis, RedisServer
from tests.retrieval.live_features.world import event, items, read, run


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://cache", {"host": "cache", "port": 6379, "db": 0}),
        ("redis://10.0.0.1:7000/3", {"host": "10.0.0.1", "port": 7000, "db": 3}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000, "db": 0}),
        (
            "rediss://cache/1?ca=/etc/ca.pem",
            {"host": "cache", "port": 6379, "db": 1, "ssl": True, "ssl_ca_certs": "/etc/ca.pem"},
        ),
        ("unix:///run/redis.sock", {"unix_socket_path": "/run/redis.sock", "db": 0}),
        ("unix:///run/a%20b?db=2", {"unix_socket_path": "/run/a b", "db": 2}),
    ],
)
def test_a_url_says_where_the_server_listens(url: str, options: dict[str, object]) -> None:
    location = parse_location(url)
    assert location.options == options
    assert location.user == ""


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@cache:6379/0",
        "redis://me:s3cret@cache",
        "rediss://me:s3cret@cache",
        "redis://cache?password=s3cret",
        "unix:///run/redis.sock?password=s3cret",
        "redis://:s3cret@cache:port/0",
    ],
)
def test_a_password_in_a_url_is_refused_and_never_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="feature store") as caught:
        parse_location(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["cache:6379", "http://cache", "redis://", "redis://cache/zero", "unix://", "redis://cache?a=b"]
)
def test_other_urls_are_refused_with_what_is_expected(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_location(url)


def test_a_user_needs_a_password_file(tmp_path: Path) -> None:
    location = parse_location("redis://me@cache")
    assert (location.user, location.shown) == ("me", "redis://cache")
    with pytest.raises(ValueError, match="features_password_file"):
        client_options(location, None)
    path = tmp_path / "password"
    for content in (None, "", " \n"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ValueError, match="features_password_file"):
            client_options(location, path)
    path.write_text("s3cret\n")
    credentials = client_options(location, path)["credential_provider"]
    assert credentials.get_credentials() == ("me", "s3cret")
    path.write_text("changed\n")
    assert credentials.get_credentials() == ("me", "changed")


def test_rediss_is_encrypted_and_the_certificate_is_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = "-subj /CN=redis -addext subjectAltName=IP:127.0.0.1"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    try:
        server = RedisServer(tmp_path / "redis", *options, "--tls-auth-clients", "no")
    except NoRedis as error:
        pytest.skip(str(error))
    with server:

        async def work(store: FeatureStore) -> None:
            assert await store.append([event("1")]) == Appended(recorded=1)
            assert items(await read(store)) == ["i1"]

        async def fail(store: FeatureStore) -> None:
            with pytest.raises(StoreUnavailable, match="certificate"):
                await read(store)

        run(server, work, url=f"rediss://127.0.0.1:{port}/0?ca={certificate}")
        run(server, fail, url=f"rediss://127.0.0.1:{port}/0")
