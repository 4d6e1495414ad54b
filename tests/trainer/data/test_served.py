"""Interactions from a served log: joined by user, time and key, with what users passed over."""

from __future__ import annotations

import json
import warnings
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
    # A query tower that reads a history is not trained on them.
    towers = {"query_tower": {"features": [{"name": "device", "kind": "categorical"}]}}
    found, notes = rows(tmp_path, loading.parse({**RAW, **towers}, "served"))
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


def write_all(folder: Path) -> None:
    write(folder, "events", [event("ann", n, f"i{n}", 110.0 + n, stars=n) for n in range(200)])
    write(folder, "queries", [query(n, 100.0 + n, "ann", device=["phone"]) for n in range(3)])
    write(folder, "lists", [{"key": n, "time": 100.5 + n, "item_ids": ["a", "i1"]} for n in range(3)])


@pytest.mark.parametrize(
    ("table", "column", "dtype", "told"),
    [
        ("events", "time", pl.String(), "is of type String, expected Float64"),
        ("events", "time", pl.Int64(), "is of type Int64, expected Float64"),
        ("events", "values", pl.Int64(), "is of type Int64, expected String"),
        ("queries", "key", pl.String(), "is of type String, expected Int64"),
        ("queries", "time", pl.String(), "is of type String, expected Float64"),
        ("lists", "item_ids", pl.String(), r"is of type String, expected List\(String\)"),
        ("lists", "time", None, "is missing, expected Float64"),
    ],
)
def test_a_part_with_other_columns_is_named(
    table: str, column: str, dtype: pl.DataType | None, told: str, tmp_path: Path
) -> None:
    write_all(tmp_path / "log")
    frame = pl.read_parquet(tmp_path / "log" / table / "part-0.parquet")
    other = pl.lit(None, dtype).alias(column)
    frame = frame.drop(column) if dtype is None else frame.with_columns(other)
    frame.write_parquet(tmp_path / "log" / table / "part-7.parquet")
    with pytest.raises(DataError, match=rf"{table}/part-7\.parquet: column '{column}' {told}; .*remove the file"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("events", "time", None),
        ("events", "time", float("nan")),
        ("queries", "time", float("inf")),
        ("lists", "time", None),
        ("events", "item_id", None),
        ("lists", "key", None),
    ],
)
def test_a_part_with_a_missing_value_is_named(table: str, column: str, value: float | None, tmp_path: Path) -> None:
    write_all(tmp_path / "log")
    path = tmp_path / "log" / table / "part-0.parquet"
    frame = pl.read_parquet(path)
    frame[1, column] = value
    frame.write_parquet(path)
    with pytest.raises(DataError, match=rf"{table}/part-0\.parquet, column '{column}': row 2: .*, expected a value of"):
        rows(tmp_path)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_all(tmp_path / "log")
    path = tmp_path / "log" / "events" / "part-0.parquet"
    whole = path.read_bytes()
    seen = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            rows(tmp_path)
        except DataError as error:
            seen += "part-0.parquet: cannot be read: " in str(error)
    assert seen > 10
    path.write_bytes(whole[:100])
    with pytest.raises(
        DataError, match=r"events/part-0\.parquet: cannot be read: .*; copy it anew, or remove the file"
    ):
        rows(tmp_path)


def test_a_folder_with_brackets_in_its_name_is_read_without_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "shop[x]"
    write_all(folder / "log")
    (folder / "log" / "lists" / "part-0.parquet").rename(folder / "log" / "lists" / "part[0].parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = rows(folder)
    assert len(found) >= 200
