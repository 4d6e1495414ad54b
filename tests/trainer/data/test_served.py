"""Interactions from a served log: joined by user, time and key, with what users passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from trainer.data.dataset import load_dataset
from trainer.errors import DataError, RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

RAW: dict[str, Any] = {
    "name": "served",
    "interactions": {
        "path": "log",
        "format": "served",
        "attributes": {
            "stars": {"column": "stars", "type": "int"},
            "kind": {"column": "type"},
            "device": {"column": "features.device"},
            "likes": {"column": "features.likes", "type": "string_list"},
        },
    },
    "query_tower": {"features": [{"name": "history", "kind": "history"}]},
    "item_tower": {"features": [{"name": "item_id", "kind": "categorical"}]},
}


def recipe(**changes: Any) -> Recipe:
    return loading.parse({**RAW, "interactions": {**RAW["interactions"], **changes}}, "served")


def event(user: str, number: int, item: str, time: float, kind: str = "", **values: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "item_id": item,
        "time": time,
        "type": kind,
        "weight": 1.0,
        "values": json.dumps(values),
    }


def write(folder: Path, name: str, *parts: list[dict[str, Any]]) -> None:
    (folder / name).mkdir(parents=True)
    for number, rows in enumerate(parts):
        pl.DataFrame(rows).write_parquet(folder / name / f"part-{number}.parquet")


def rows(folder: Path, chosen: Recipe | None = None) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]:
    """Returns user, item, time, relevance and attributes of all events, and the notes."""
    dataset = load_dataset(chosen or recipe(), folder)
    events = dataset.events
    columns = [
        [dataset.user_ids[user] for user in events.users],
        [dataset.items.ids[item] for item in events.items],
        events.times.tolist(),
        events.relevance.tolist(),
        *(events.attributes[name].tolist() for name in ("stars", "kind", "device", "likes")),
    ]
    return list(zip(*columns, strict=True)), dataset.notes


def test_events_are_those_of_the_log_once_in_the_order_of_the_feature_store(tmp_path: Path) -> None:
    # The second part is of another replica, at which the client tried event 2 again.
    first = [event("ann", 1, "a", 100.0, "view", stars=4), event("ann", 2, "b", 101.0)]
    second = [event("ann", 2, "b", 101.0), event("bob", 1, "c", 50.0), event("ann", 0, "d", 100.0)]
    write(tmp_path / "log", "events", first, second)
    found, notes = rows(tmp_path)
    assert found == [
        ("ann", "d", 100.0, 1.0, None, None, None, None),  # of equal times by id, as the feature store orders them
        ("ann", "a", 100.0, 1.0, 4, "view", None, None),
        ("ann", "b", 101.0, 1.0, None, None, None, None),
        ("bob", "c", 50.0, 1.0, None, None, None, None),
    ]
    assert notes == (f"{tmp_path / 'log'}: 4 events (1 more were logged twice).",)


def query(key: int, time: float, user: str, **features: list[Any]) -> dict[str, Any]:
    return {"key": key, "time": time, "user_id": user, "features": json.dumps(features)}


def test_an_event_has_the_features_of_the_newest_query_before_it(tmp_path: Path) -> None:
    write(tmp_path / "log", "events", [event("ann", n, "a", time) for n, time in enumerate([90, 110, 210, 2100.0])])
    queries = [
        query(1, 100.0, "ann", device=["phone"], likes=["x, y", "z"]),
        query(2, 200.0, "ann", device=["desk, top"], likes=["x, y"]),
        query(3, 205.0, "bob", device=["tv"]),
    ]
    write(tmp_path / "log", "queries", queries)
    found, notes = rows(tmp_path)
    assert [row[6:] for row in found] == [
        (None, None),  # before all queries
        ("phone", ["x, y", "z"]),
        ("desk, top", ["x, y"]),
        (None, None),  # more than half an hour after the last query
    ]
    assert "4 events (0 more were logged twice), 2 of them after a query of the user" in notes[0]


def test_items_above_the_last_used_one_were_passed_over(tmp_path: Path) -> None:
    events = [
        event("ann", 1, "c", 130.0),
        event("ann", 2, "b", 90_000.0),  # shown in the first list, and used a day later
        event("bob", 1, "z", 140.0),
    ]
    write(tmp_path / "log", "events", events)
    write(
        tmp_path / "log",
        "queries",
        [query(1, 100.0, "ann", device=["phone"]), query(2, 101.0, "bob"), query(3, 102.0, "")],
    )
    lists = [
        {"key": 1, "time": 100.5, "item_ids": ["a", "b", "c", "d"]},
        {"key": 1, "time": 120.0, "item_ids": ["a", "e", "c"]},  # the same query again
        {"key": 2, "time": 101.5, "item_ids": ["a", "b"]},  # nothing of it was used
        {"key": 3, "time": 102.5, "item_ids": ["q", "c"]},  # nobody's
        {"key": 9, "time": 103.0, "item_ids": ["q", "c"]},  # of no query
    ]
    write(tmp_path / "log", "lists", lists)
    found, notes = rows(tmp_path)
    assert [row[:4] for row in found] == [
        ("ann", "a", 100.5, 0.0),
        ("ann", "e", 120.0, 0.0),
        ("ann", "c", 130.0, 1.0),
        ("ann", "b", 90_000.0, 1.0),
        ("bob", "z", 140.0, 1.0),
    ]
    assert [row[6] for row in found[:3]] == ["phone"] * 3
    assert "2 items were passed over in 5 lists" in notes[0]


def test_a_folder_without_events_and_keys_of_a_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no events; record them with RecordEvents"):
        rows(tmp_path)
    with pytest.raises(RecipeError, match=r"interactions\.user: 'buyer' makes no sense.*format is \"served\""):
        recipe(user="buyer")
    with pytest.raises(RecipeError, match=r"interactions\.weight: 'other' makes no sense"):
        recipe(weight="other")
    stored = recipe(weight="weight").to_json()
    assert loading.parse(stored, "stored").interactions.time == "time"
