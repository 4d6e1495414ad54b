"""Connections are closed at an age, so that clients look for replicas that were added; no call fails by it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from query_tower_service.config import QueryTowerConfig
from retrieval.store.folder_store import FolderStore
from tests.harness import query_tower_service
from tests.worlds import wait_for
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower_client import QueryTowerClient

REQUEST = pb.EmbedQueriesRequest(queries=[pb.Query()])


def ports_of_clients(port: int) -> set[int]:
    """The own ports of the connections of this process to a port."""
    connections = psutil.Process().net_connections(kind="tcp")
    return {each.laddr.port for each in connections if each.raddr and each.raddr.port == port}


def test_a_client_connects_anew_and_no_call_fails(filled: FolderStore) -> None:
    with query_tower_service(filled, max_connection_age_s=1.0) as service:
        service.wait_until_serving()
        seen, end = set[int](), time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < end:
            service.stub.EmbedQueries(REQUEST, timeout=10)
            seen |= ports_of_clients(service.port)
        assert len(seen) >= 4


def test_callers_of_the_client_that_checks_health_notice_nothing(filled: FolderStore) -> None:
    with query_tower_service(filled, max_connection_age_s=1.0) as service:
        service.wait_until_serving()
        seen, end = set[int](), time.monotonic() + 4
        with QueryTowerClient(f"127.0.0.1:{service.port}", timeout_s=10.0) as client:

            def call() -> int:
                count = 0
                while time.monotonic() < end:
                    client.embed([{"age": 25.0}])
                    count += 1
                    seen.update(ports_of_clients(service.port))
                return count

            # A call that fails raises here. A watch of health must not keep an old connection open.
            with ThreadPoolExecutor(4) as callers:
                assert all(each.result() > 1 for each in [callers.submit(call) for _ in range(4)])
            wait_for(lambda: len(ports_of_clients(service.port)) <= 2, "old connections are closed")
        assert len(seen) >= 3


@pytest.mark.parametrize("age_s", [-1.0, 0.5, 86_401.0, float("nan")])
def test_refuses_ages_at_which_calls_would_fail(age_s: float) -> None:
    with pytest.raises(ValueError, match=r"max_connection_age_s is .*, expected 0"):
        QueryTowerConfig(store="x", max_connection_age_s=age_s)


def test_by_default_a_connection_stays(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        seen, end = set[int](), time.monotonic() + 1.5
        while time.monotonic() < end:
            service.stub.EmbedQueries(REQUEST, timeout=10)
            seen |= ports_of_clients(service.port)
        assert len(seen) == 1
