"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundle.store import BundleStore

# As of `python -m trainer`; TensorFlow reads them when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    """An empty store."""
    return BundleStore(tmp_path / "store")
