"""Fixtures of two pairs behind Envoy, which are started once and shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.gateway.world import World, running
from two_tower_client import Retriever


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both pairs and the gateway. A test that changes shares or stops something puts it back."""
    with running(tmp_path_factory.mktemp("gateway")) as world:
        yield world


@pytest.fixture
def retriever(world: World) -> Iterator[Retriever]:
    """A client of the gateway."""
    address = world.gateway.address
    with Retriever(address, address, timeout_s=10.0, check_health=False) as retriever:
        yield retriever
