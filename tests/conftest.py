"""Settings and fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from retrieval.store.folder_store import FolderStore
from testbed.redis_server import NoRedis, RedisServer
from testbed.s3_server import NoServer, S3Server
from tests.worlds import write_bundle

# The same values as in `python -m trainer`. TensorFlow reads them when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# The speed of a busy machine is not a property of the code.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")

# Until a service sets up its log. By default, structlog renders the variables of other threads, while they change.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "store")


@pytest.fixture
def filled(store: FolderStore) -> FolderStore:
    """A store whose live bundle is small."""
    write_bundle(store)
    return store


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server, to which the environment of this process leads."""
    try:
        server = S3Server(tmp_path / "s3")
    except NoServer as error:
        pytest.skip(str(error))
    with server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server."""
    try:
        server = RedisServer(tmp_path / "redis")
    except NoRedis as error:
        pytest.skip(str(error))
    with server:
        yield server
