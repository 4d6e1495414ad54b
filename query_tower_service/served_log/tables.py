"""The tables of the served log that the query tower writes: queries with the features that were used, and events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from query_tower_service.query_log import to_line
from retrieval.live_features.records import Event
from retrieval.serving.answering.served_log import Row, ServedLog, ServedTable, key_of
from two_tower.query.v1 import query_tower_service_pb2 as pb

QUERIES = ServedTable(
    "queries",
    {"key": "int", "time": "float", "model_version": "string", "user_id": "string", "features": "string"},
)
EVENTS = ServedTable(
    "events",
    {
        "event_id": "string",
        "user_id": "string",
        "item_id": "string",
        "time": "float",
        "type": "string",
        "weight": "float",
        "values": "string",
    },
)
_VALUE_BYTES = 50
"""Size of what is held of a stored value, in bytes, as far as it is not known."""


class ServedTables:
    """Both tables. Safe for several threads; never blocks or fails a caller."""

    def __init__(self, folder: Path, max_bytes: int, losses: Counter) -> None:
        """Makes the folders of the tables; see `retrieval.serving.answering.served_log.ServedLog`.

        Raises:
            ValueError: polars is not installed, or a folder cannot be made.
        """
        self._queries = ServedLog(folder, QUERIES, max_bytes, losses)
        self._events = ServedLog(folder, EVENTS, max_bytes, losses)

    def record_queries(
        self,
        queries: Sequence[pb.Query],
        stored: Mapping[int, Mapping[str, Any]],
        now_s: float | None,
        response: pb.EmbedQueriesResponse,
    ) -> None:
        """Records the queries of an answered call.

        Args:
            queries: queries of the call.
            stored: stored values by feature name that were added to a query, by the number of the query.
            now_s: time of the request in seconds since 1970, if the embeddings depend on it; otherwise None.
            response: response to the call.
        """
        values = sum(len(value) if isinstance(value, list) else 1 for row in stored.values() for value in row.values())
        size_bytes = sum(query.ByteSize() for query in queries) + response.ByteSize() + _VALUE_BYTES * values
        to_rows = partial(_query_rows, queries, stored, now_s, response, time.time())
        self._queries.record(to_rows, size_bytes)

    def record_events(self, events: Sequence[Event], size_bytes: int) -> None:
        """Records events that the feature store has taken.

        Args:
            events: the events.
            size_bytes: size of the request that held them, in bytes.
        """
        self._events.record(partial(_event_rows, events), 2 * size_bytes)  # objects take more than the message

    def close(self) -> None:
        """Writes what is not written yet."""
        self._queries.close()
        self._events.close()


def _query_rows(
    queries: Sequence[pb.Query],
    stored: Mapping[int, Mapping[str, Any]],
    now_s: float | None,
    response: pb.EmbedQueriesResponse,
    at_s: float,
) -> list[Row]:
    return [
        (
            key_of(embedding.values),
            at_s,
            response.model_version,
            query.user_id,
            json.dumps(json.loads(to_line(query, now_s, stored.get(number)))["features"], separators=(",", ":")),
        )
        for number, (query, embedding) in enumerate(zip(queries, response.embeddings, strict=True))
    ]


def _event_rows(events: Sequence[Event]) -> list[Row]:
    return [
        (
            event.event_id,
            event.user_id,
            event.item_id,
            event.time_s,
            event.type,
            event.weight,
            json.dumps(dict(event.values), separators=(",", ":"), ensure_ascii=False),
        )
        for event in events
    ]
