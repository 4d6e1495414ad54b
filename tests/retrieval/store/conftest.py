"""A fixture of stores of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from retrieval.store.location import open_store
from retrieval.store.store import BundleStore


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> BundleStore:
    """An empty store of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return open_store(request.getfixturevalue("s3").url)
