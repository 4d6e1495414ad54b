"""The tables of the served log that the query tower writes: queries with the features that were used, and events."""

from __future__ import annotations

import json
import marshal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from query_tower_service.query_log import features_of
from retrieval.live_features.records import Event
from retrieval.serving.answering.served_log import BACKLOG_BYTES, ServedLog, key_of
from retrieval.serving.answering.served_parts import Row, ServedTable
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
_BYTES_BYTES = 50
"""Size of what is held of a bytes object beside its content, in bytes."""
_EVENT_BYTES, _EVENT_VALUE_BYTES = 700, 200
"""Size of what is held of an event and of one of its values, beside their text, in bytes."""


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
        # As bytes, because objects of small values take many times their size.
        kept: list[tuple[bytes, bytes]] = []
        answer = response.SerializeToString()
        size_bytes = len(answer)
        for number, query in enumerate(queries):
            kept.append((query.SerializeToString(), marshal.dumps(dict(stored.get(number, {})))))
            size_bytes += sum(_BYTES_BYTES + len(each) for each in kept[-1])
            if size_bytes > BACKLOG_BYTES:
                break  # the call is lost anyway
        self._queries.record(partial(_query_rows, kept, now_s, answer, time.time()), size_bytes)

    def record_events(self, events: Sequence[Event], size_bytes: int) -> None:
        """Records events that the feature store has taken.

        Args:
            events: the events.
            size_bytes: size of the request that held them, in bytes.
        """
        objects = sum(_EVENT_BYTES + _EVENT_VALUE_BYTES * len(event.values) for event in events)
        self._events.record(partial(_event_rows, events), objects + 2 * size_bytes)

    def close(self) -> None:
        """Writes what is not written yet, within `retrieval.serving.answering.served_log.CLOSE_S`."""
        for log in (self._queries, self._events):
            log.start_close()
        self._queries.close()
        self._events.close()


def _query_rows(kept: Sequence[tuple[bytes, bytes]], now_s: float | None, answer: bytes, at_s: float) -> Iterator[Row]:
    """Yields a row for each query.

    Args:
        kept: [batch] each query as bytes, and its stored values as `marshal` writes them.
        now_s: time of the request; see `ServedTables.record_queries`.
        answer: response as bytes.
        at_s: time of the answer, in seconds since 1970.
    """
    response = pb.EmbedQueriesResponse.FromString(answer)
    for (body, stored), embedding in zip(kept, response.embeddings, strict=True):
        query = pb.Query.FromString(body)
        features = _to_json(features_of(query, now_s, marshal.loads(stored)))
        yield key_of(embedding.values), at_s, response.model_version, query.user_id, features


def _event_rows(events: Sequence[Event]) -> Iterator[Row]:
    for event in events:
        values = _to_json(dict(event.values))
        yield event.event_id, event.user_id, event.item_id, event.time_s, event.type, event.weight, values


def _to_json(values: Mapping[str, Any]) -> str:
    """Returns values as JSON that UTF-8 can express: profiles of other programs may hold half of a surrogate pair."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
