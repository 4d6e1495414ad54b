"""Fixture of the trained shop, which is trained once per test session."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of tensorflow, about itself
    import tensorflow  # noqa: F401

from tests.trainer.world import Shop, trained_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop, trained with two seeds; not to be changed."""
    return trained_shop(tmp_path_factory.getbasetemp() / "shop")
