"""Attributes of events: reading them, keeping each with its event, and deriving hour and weekday from the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import recipe
from trainer.data import splits
from trainer.data.dataset import Dataset, Events, load_dataset
from trainer.errors import DataError, RecipeError
from trainer.recipe.recipe import Split

PURCHASES = """buyer,product,bought_at,device,stars,dwell,tags
bob,p2,3,phone,3,1.5,a|b
amy,p1,2,,5,,c|d
amy,p2,1,desk,2,2.5,
amy,p3,2,desk,4,0.5,e|f
"""
ATTRIBUTES = {
    "device": {"column": "device", "missing": ["desk"]},
    "stars": {"column": "stars", "type": "int"},
    "dwell": {"column": "dwell", "type": "float"},
    "tags": {"column": "tags", "type": "string_list"},
}
HISTORY = {"name": "history", "kind": "history"}


def load(folder: Path, *, purchases: str = PURCHASES, **changes: Any) -> Dataset:
    (folder / "purchases.csv").write_text(purchases)
    (folder / "products.csv").write_text("product,title,year,genres\np1,One,1990,drama\np2,,,\np3,,,\n")
    (folder / "buyers.csv").write_text("buyer,age,gender\namy,40,f\n")
    return load_dataset(recipe(**changes), folder)


def values(events: Events) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in events.attributes.items()}


def test_attributes_stand_beside_their_events(tmp_path: Path) -> None:
    events = load(tmp_path, interactions={"attributes": ATTRIBUTES}).events
    # In order: amy at 1 (the third row), amy at 2 (the second), amy at 2 (the fourth), bob.
    assert values(events) == {
        "device": [None, None, None, "phone"],
        "stars": [2, 5, 4, 3],
        "dwell": [2.5, None, 0.5, 1.5],
        "tags": [None, ["c", "d"], ["e", "f"], ["a", "b"]],
    }
    assert events.attributes["stars"].dtype == np.int64
    assert {column.shape for column in events.attributes.values()} == {(4,)}


def test_rows_rated_too_low_take_their_attributes_with_them(tmp_path: Path) -> None:
    source = {"attributes": ATTRIBUTES, "rating": "stars", "min_rating": 3}
    assert values(load(tmp_path, interactions=source).events)["dwell"] == [None, 0.5, 1.5]


def test_a_table_without_attributes_has_none(tmp_path: Path) -> None:
    assert values(load(tmp_path).events) == {}


def test_a_bad_cell_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"purchases\.csv, column 'device': line 2: 'phone'.* is not a finite number"):
        load(tmp_path, interactions={"attributes": {"device": {"column": "device", "type": "int"}}})


def test_split_and_merged_events_keep_their_attributes(tmp_path: Path) -> None:
    dataset = load(tmp_path, interactions={"attributes": {"stars": {"column": "stars", "type": "int"}}})
    parts = splits.split(dataset, Split("leave_last_one_out"))
    assert [values(part) for part in (parts.train, parts.valid, parts.test)] == [
        {"stars": [2, 3]},
        {"stars": [5]},
        {"stars": [4]},
    ]
    assert values(parts.known) == {"stars": [2, 5, 3]}
    assert parts.known.items.tolist() == [1, 0, 1]


def test_hour_and_weekday_are_those_of_the_time_in_utc(tmp_path: Path) -> None:
    # 1970-01-01 was a Thursday, 3; 2026-11-24 is a Tuesday, 1; one second before 1970 a Wednesday's last hour.
    times = ("1970-01-01T00:00:00", "2026-11-24T03:59:59", "1969-12-31T23:59:59")
    text = "buyer,product,bought_at\n" + "".join(
        f"{buyer},p1,{time}\n" for buyer, time in zip(("amy", "b1", "b2"), times, strict=True)
    )
    clock = [{"name": name, "kind": "categorical"} for name in ("hour", "weekday")]
    events = load(tmp_path, purchases=text, query_tower={"features": [HISTORY, *clock]}).events
    assert values(events) == {"hour": [0, 3, 23], "weekday": [3, 1, 2]}
    events = load(tmp_path, purchases=text, query_tower={"features": [HISTORY, clock[1]]}).events
    assert values(events) == {"weekday": [3, 1, 2]}


def test_an_attribute_named_hour_comes_before_the_hour_of_the_time(tmp_path: Path) -> None:
    features = {"features": [HISTORY, {"name": "hour", "kind": "categorical"}]}
    own = {"hour": {"column": "stars", "type": "int"}}
    assert values(load(tmp_path, interactions={"attributes": own}, query_tower=features).events) == {
        "hour": [2, 5, 4, 3]
    }
    users = {"attributes": {"hour": {"column": "age", "type": "int"}}}
    assert values(load(tmp_path, users=users, query_tower=features).events) == {}


def test_hour_needs_a_time() -> None:
    features = {"features": [HISTORY, {"name": "hour", "kind": "categorical"}]}
    with pytest.raises(RecipeError, match=r"feature hour: needs interactions\.time, or an attribute of that name"):
        recipe(interactions={"time": None}, query_tower=features)


def test_kinds_of_event_features_are_checked() -> None:
    source = {"attributes": ATTRIBUTES}
    good = [{"name": "device", "kind": "categorical"}, {"name": "dwell", "kind": "numeric"}]
    recipe(interactions=source, query_tower={"features": good})
    with pytest.raises(RecipeError, match=r"feature dwell: kind categorical reads type string or int, .* type float"):
        recipe(interactions=source, query_tower={"features": [{"name": "dwell", "kind": "categorical"}]})
    with pytest.raises(RecipeError, match=r"item_tower: feature device: no such attribute"):
        recipe(interactions=source, item_tower={"features": [{"name": "device", "kind": "categorical"}]})


def test_names_of_event_attributes_are_their_own() -> None:
    with pytest.raises(RecipeError, match=r"interactions\.attributes: age is one of \[users\.attributes\] too"):
        recipe(interactions={"attributes": {"age": {"column": "age"}}})
    with pytest.raises(RecipeError, match=r"interactions\.attributes: user_id is the id itself"):
        recipe(interactions={"attributes": {"user_id": {"column": "buyer"}}})
