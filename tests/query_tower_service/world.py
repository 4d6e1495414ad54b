"""A running service with a feature store, a user in it, and queries that name users."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.records import Event, StoreLimits
from retrieval.store.folder_store import FolderStore
from testbed.redis_server import RedisServer
from tests.harness import Running, query_tower_service
from two_tower.query.v1 import query_tower_service_pb2 as pb

USED, UNKNOWN, UNAVAILABLE, NOT_CONFIGURED = (
    pb.STORED_FEATURES_USED,
    pb.STORED_FEATURES_UNKNOWN_USER,
    pb.STORED_FEATURES_UNAVAILABLE,
    pb.STORED_FEATURES_NOT_CONFIGURED,
)
PATIENT = {"features_timeout_s": 5.0, "features_write_timeout_s": 5.0}
PROFILE: dict[str, list[Any]] = {"age": [25.0], "gender": ["f"], "device": [7], "likes": ["comedy"]}
WATCHED = ["i1", "i2", "i3", "i4", "i5"]


def put_user(server: RedisServer, user_id: str = "42", profile: dict[str, list[Any]] = PROFILE) -> None:
    events = [Event(item_id, user_id, item_id, float(number)) for number, item_id in enumerate(WATCHED)]
    with BulkWriter(server.url, StoreLimits()) as writer:
        writer.put(user_id, profile, events)


def query(user_id: str = "", **features: list[Any]) -> pb.Query:
    message = pb.Query(user_id=user_id)
    for name, values in features.items():
        kind = {str: "strings", int: "ints", float: "floats"}[type(values[0])] if values else "strings"
        target = getattr(message.features[name], kind)
        target.values.extend(values)
        target.SetInParent()
    return message


def embed(service: Running, *queries: pb.Query, timeout: float = 10, **request: Any) -> pb.EmbedQueriesResponse:
    return service.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=queries, **request), timeout=timeout)


def record(service: Running, *item_ids: str, user_id: str = "42") -> pb.RecordEventsResponse:
    now = time.time()
    events = [pb.Event(event_id=each, user_id=user_id, item_id=each, time=now) for each in item_ids]
    return service.stub.RecordEvents(pb.RecordEventsRequest(events=events), timeout=10)


@contextmanager
def measured(filled: FolderStore, server: RedisServer, port: int, **settings: Any) -> Iterator[Running]:
    with query_tower_service(filled, features=server.url, metrics_port=port, **settings) as service:
        service.wait_until_serving()
        yield service


def metric(port: int, name: str, **labels: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
