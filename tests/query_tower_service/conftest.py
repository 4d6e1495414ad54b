"""A running service with a feature store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import Running, query_tower_service
from tests.query_tower_service.world import PATIENT


@pytest.fixture
def served(filled: FolderStore, redis_server: RedisServer) -> Iterator[Running]:
    with query_tower_service(filled, features=redis_server.url, **PATIENT) as service:
        service.wait_until_serving()
        yield service
