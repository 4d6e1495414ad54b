"""Fixture that copies a golden bundle for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.golden import Golden, copy_golden


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """A copy of the golden bundle that a test names with ``parametrize("golden", NAMES, indirect=True)``."""
    return copy_golden(request.param, tmp_path / "store")
