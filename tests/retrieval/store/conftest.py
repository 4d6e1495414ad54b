"""Stores of both kinds, and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from retrieval.store.location import open_store
from retrieval.store.store import BundleStore
from testbed.s3_server import NoServer, S3Server


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


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> BundleStore:
    """An empty store of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return open_store(request.getfixturevalue("s3").url)
