"""Connections are closed at an age, so that clients look for replicas that were added; no call fails by it."""

from __future__ import annotations

import time

import psutil

from retrieval.store.folder_store import FolderStore
from tests.harness import query_tower_service
from two_tower.query.v1 import query_tower_service_pb2 as pb

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


def test_by_default_a_connection_stays(filled: FolderStore) -> None:
    with query_tower_service(filled) as service:
        service.wait_until_serving()
        seen, end = set[int](), time.monotonic() + 1.5
        while time.monotonic() < end:
            service.stub.EmbedQueries(REQUEST, timeout=10)
            seen |= ports_of_clients(service.port)
        assert len(seen) == 1
