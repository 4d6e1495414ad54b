"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle.store import BundleStore


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    """An empty store."""
    return BundleStore(tmp_path / "store")
