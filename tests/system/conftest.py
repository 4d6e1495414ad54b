"""Fixture of the trained shop, which is trained once and shared by all test folders."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings that tensorflow raises when it is imported
    import tensorflow  # noqa: F401

from tests.trainer.world import Shop, trained_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop with bundles trained with two seeds; tests must not change it."""
    return trained_shop(tmp_path_factory.getbasetemp() / "shop")
