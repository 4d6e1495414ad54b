"""The tables of the served log that the query tower writes: their size in memory, and what they hold."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from query_tower_service.served_log.tables import ServedTables
from retrieval.live_features.records import Event
from retrieval.serving.answering.served_log import count_losses
from two_tower.query.v1 import query_tower_service_pb2 as pb


def answer(count: int) -> pb.EmbedQueriesResponse:
    embeddings = [pb.Embedding(values=[float(number)] * 4) for number in range(count)]
    return pb.EmbedQueriesResponse(model_version="m", embeddings=embeddings)


def record(tables: ServedTables, kind: str) -> None:
    """Records what a service would, of which nothing but the log holds anything afterwards."""
    if kind == "events":
        events = [Event(f"e{number}", "u", "i", 1.0, values={"a": number + 0.5}) for number in range(5000)]
        tables.record_events(events, 30 * 5000)
        return
    made: dict[str, Any] = {
        "text": lambda number: f"{number:06}" * 10_000,
        "strings": lambda number: [f"{number}-{each}" for each in range(1000)],
        "ints": lambda number: [1000 * number + each for each in range(1000)],
        "floats": lambda number: [number + each / 7 for each in range(1000)],
    }
    stored = {number: {"value": made[kind](number)} for number in range(100) if kind in made}
    given = pb.FeatureValues(strings=pb.StringList(values=[str(each) for each in range(500)]))
    features = {"likes": given} if kind == "given" else {}
    queries = [pb.Query(user_id=f"u{number}", features=features) for number in range(100)]
    tables.record_queries(queries, stored, None, answer(100))


@pytest.mark.parametrize("kind", ["text", "strings", "ints", "floats", "given", "events"])
def test_the_size_that_is_counted_is_what_memory_holds(kind: str, tmp_path: Path) -> None:
    tables = ServedTables(tmp_path, 1 << 30, count_losses(CollectorRegistry()))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        record(tables, kind)
        held_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted_bytes = (tables._events if kind == "events" else tables._queries)._backlog_bytes
    tables.close()
    assert held_bytes > 50_000
    assert 0.9 * held_bytes < counted_bytes < 4 * held_bytes


def test_features_are_written_as_the_text_that_they_are(tmp_path: Path) -> None:
    tables = ServedTables(tmp_path, 1 << 30, count_losses(CollectorRegistry()))
    stored = {1: {"city": "Tromsø", "tags": ["\ud800", "b"], "age": float("nan")}}
    given = pb.FeatureValues(strings=pb.StringList(values=["blå"]))
    tables.record_queries([pb.Query(features={"likes": given}), pb.Query(user_id="u")], stored, 5.0, answer(2))
    tables.close()
    frame = pl.read_parquet(tmp_path / "queries")
    assert frame["features"][0] == '{"likes":["blå"],"request_time":[5.0]}'
    assert json.loads(frame["features"][1]) == {
        "age": [None],
        "city": ["Tromsø"],
        "request_time": [5.0],
        "tags": ["?", "b"],
    }
    assert frame["user_id"].to_list() == ["", "u"]
    assert frame["key"].n_unique() == 2
