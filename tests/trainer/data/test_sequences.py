"""Reading interactions as sequences, and items as a JSON mapping: the format of Amazon Beauty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.world import recipe
from trainer.data import splits
from trainer.data.dataset import Dataset, load_dataset
from trainer.data.sequences import read_sequences
from trainer.data.tables import Table
from trainer.errors import DataError, RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

LINES = "7 30 10 20\n\n3 10 10\n5\t20 40 30 10\n"
ATTRIBUTES = '{"10": [1, 2], "20": [], "30": [2], "40": [3, 1], "50": [1]}'


def beauty(folder: Path, lines: str = LINES, attributes: str = ATTRIBUTES) -> tuple[Recipe, Dataset]:
    (folder / "Beauty.txt").write_text(lines)
    (folder / "Beauty_item2attributes.json").write_text(attributes)
    shipped = loading.load("amazon_beauty")
    return shipped, load_dataset(shipped, folder)


def test_each_line_is_a_user_with_items_oldest_first(tmp_path: Path) -> None:
    _, dataset = beauty(tmp_path)
    events = dataset.events
    assert dataset.user_ids == ("3", "5", "7")
    assert dataset.items.ids == ("10", "20", "30", "40", "50")
    assert events.users.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    met = [dataset.items.ids[item] for item in events.items]
    assert met == ["10", "10", "20", "40", "30", "10", "30", "10", "20"]
    assert events.weights.tolist() == [1.0] * 9
    # Events are numbered as they stand in the file: user 7 comes first there.
    assert events.times.tolist() == [3, 4, 5, 6, 7, 8, 0, 1, 2]


def test_attributes_of_a_json_mapping_belong_to_their_ids(tmp_path: Path) -> None:
    _, dataset = beauty(tmp_path)
    assert dataset.item_column("attributes") == [("1", "2"), None, ("2",), ("3", "1"), ("1",)]
    assert dataset.notes == ()


def test_the_last_of_each_user_is_held_out(tmp_path: Path) -> None:
    shipped, dataset = beauty(tmp_path)
    parts = splits.split(dataset, shipped.split)
    assert [[dataset.items.ids[i] for i in part.items] for part in (parts.train, parts.valid, parts.test)] == [
        ["10", "10", "20", "40", "30"],
        ["30", "10"],
        ["10", "20"],
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1 2 3\n4\n", r"Beauty\.txt, line 2: user '4' has no item"),
        ("1 2 3\n\n1 4\n", r"Beauty\.txt, line 3: user '1' is in line 1 too; make it one line"),
        ("\n \n", r"Beauty\.txt: no rows"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        beauty(tmp_path, lines=lines)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none\.txt: no such file; check the path: --interactions, --items and --users name a file"
    ):
        read_sequences(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"1 \xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt: cannot be read: .*; save it as UTF-8"):
        read_sequences(tmp_path / "latin.txt")


def test_a_mapping_to_objects_gives_columns(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text(
        '{"a": {"price": 2.5, "tags": ["x", "y"], "new": true}, "b": {"title": "B", "tags": "z"}, "c": {"price": null}}'
    )
    table = Table(path, ["id", "price", "tags", "title", "new"])
    assert table.strings("id", required=True).to_list() == ["a", "b", "c"]
    assert table.floats("price").to_list() == [2.5, None, None]
    assert table.string_lists("tags", "|").to_list() == [["x", "y"], ["z"], None]
    assert table.strings("title").to_list() == [None, "B", None]
    assert table.strings("new").to_list() == ["true", None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"items\.json: not valid JSON: .*line 1"),
        ("[1]", r"items\.json: expected a mapping of ids"),
        ('{"a": 3}', r"items\.json, id 'a': 3 is neither a list nor an object"),
        ('{"a": {"size": {"x": 1}}}', r"items\.json, id 'a', attribute 'size': is nested"),
        ('{"a": [[1], [2]]}', r"items\.json, id 'a', attribute 'values': is nested"),
        ('{"a": {"id": 3}}', r"items\.json, id 'a': an attribute 'id' beside the key"),
        ('{"a": {"price": "dear"}, "b": {"price": 3}}', r"items\.json, column 'price': row 1: 'dear' is not a finite"),
        ("{}", r"items\.json: no rows"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Table(path, ["id", *(["price"] if "price" in text else [])]).floats("price")


def test_an_id_that_stands_twice_in_a_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'id': row 1: '10', row 3: '10' is in several rows"):
        beauty(tmp_path, attributes='{"10": [1], "20": [1], "10": [2]}')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", "buyer"),
        ("item", "product"),
        ("time", "bought_at"),
        ("weight", "n"),
        ("rating", "stars"),
        ("separator", ";"),
        ("quote", ""),
        ("attributes", {"device": {"column": "device"}}),
    ],
)
def test_sequences_have_no_columns(key: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf'interactions\.{key}: .* makes no sense where format is "sequences"'):
        loading.parse({**raw_sequences(), "interactions": {**raw_sequences()["interactions"], key: value}}, "mine")


def test_sequences_have_no_time_to_split_by() -> None:
    with pytest.raises(RecipeError, match=r"global_temporal needs interactions\.time"):
        loading.parse({**raw_sequences(), "split": {"kind": "global_temporal"}}, "mine")


@pytest.mark.parametrize("key", ["user", "item"])
def test_a_table_names_its_columns(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"interactions\.{key}: missing; a table needs the column of the {key} id"):
        recipe(interactions={key: None})


def raw_sequences() -> dict[str, Any]:
    raw = loading.load("amazon_beauty").to_json()
    raw["interactions"] = {"path": "Beauty.txt", "format": "sequences"}
    return raw
