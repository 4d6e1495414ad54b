"""Settings and fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from retrieval.store.folder_store import FolderStore
from tests.worlds import write_bundle

# The same values as in `python -m trainer`. TensorFlow reads them when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# The speed of a busy machine is not a property of the code.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "store")


@pytest.fixture
def filled(store: FolderStore) -> FolderStore:
    """A store whose live bundle is small."""
    write_bundle(store)
    return store
