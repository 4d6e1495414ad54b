"""What a person writes into the form of the playground, and the file of users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from console.services.feature_form import read_form, read_json, to_fields
from console.services.playground import Question
from console.services.users import Users
from console.settings import SettingsError
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.errors import InvalidRequest

SCHEMA = [
    query_pb2.Feature(name="age", kind=query_pb2.FEATURE_KIND_NUMERIC, value_type=query_pb2.VALUE_TYPE_FLOAT),
    query_pb2.Feature(name="city", kind=query_pb2.FEATURE_KIND_CATEGORICAL, value_type=query_pb2.VALUE_TYPE_STRING),
    query_pb2.Feature(
        name="seen.stars", kind=query_pb2.FEATURE_KIND_NUMERIC, value_type=query_pb2.VALUE_TYPE_FLOAT, history="seen"
    ),
    query_pb2.Feature(name="seen", kind=query_pb2.FEATURE_KIND_HISTORY, value_type=query_pb2.VALUE_TYPE_STRING),
]


@pytest.mark.parametrize(
    ("values", "features"),
    [
        (
            {"age": " 24 ", "city": "New York, NY", "seen": "50,181"},
            {"age": 24.0, "city": "New York, NY", "seen": ["50", "181"]},
        ),
        ({"seen": "a,b\nc"}, {"seen": ["a,b", "c"]}),
        ({"seen": "a,b\n"}, {"seen": ["a", "b"]}),
        ({"seen": "a,b", "seen.stars": "5,"}, {"seen": ["a", "b"], "seen.stars": [5.0, None]}),
        ({"age": "", "city": "  ", "seen": "\n"}, {}),
    ],
)
def test_reads_the_form_by_the_schema(values: dict[str, str], features: dict[str, Any]) -> None:
    assert read_form(values, SCHEMA) == features


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"age": "old"}, "'age' takes a number, got 'old'"),
        ({"size": "4"}, "the model has no feature 'size'"),
        ({"age": 24}, "age: has to be a text"),
    ],
)
def test_says_what_is_wrong_in_the_form(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_form(values, SCHEMA)


def test_histories_come_first_and_what_describes_their_events_last() -> None:
    fields = to_fields(query_pb2.OpenModel(features=SCHEMA))
    assert [(field.name, field.is_list, field.is_history) for field in fields] == [
        ("seen", True, True),
        ("age", False, False),
        ("city", False, False),
        ("seen.stars", True, False),
    ]


def test_json_keeps_large_numbers() -> None:
    assert read_json('{"zone": 9007199254740993}') == {"zone": 9007199254740993}


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"age": true}', '{"age": [1, "x"]}', "[" * 100_000])
def test_says_what_is_wrong_with_the_json(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_json(text)


@pytest.mark.parametrize(
    "raw",
    [
        {"k": 0},
        {"k": 101},
        {"k": "10"},
        {"k": True},
        {"diversity": 1.1},
        {"diversity": "0"},
        {"conditions": "year>=1990"},
        {"conditions": ["year>=1990"] * 21},
        {"exclude": [1]},
        {"text": 3},
    ],
)
def test_a_question_is_bounded(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Question.parse(raw)


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return path


def test_finds_users_by_id(tmp_path: Path) -> None:
    path = write(
        tmp_path / "users.jsonl",
        {"user_id": "ü1", "features": {"age": 24, "seen": ["50"]}},
        "\n",
        {"user_id": "2", "features": {}},
        {"user_id": "ü1", "features": {"age": 99}},
    )
    users = Users(path)
    assert (len(users), users.first(1)) == (2, ["ü1"])
    assert users.find("ü1") == {"age": 24, "seen": ["50"]}  # the first of two lines
    assert users.find("2") == {}
    assert users.find("3") is None


def test_says_when_the_file_of_users_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "users.jsonl", {"user_id": "1", "features": {}}, {"user_id": "2", "features": {}})
    users = Users(path)
    write(path, {"user_id": "7", "features": {}})
    with pytest.raises(SettingsError, match="has changed"):
        users.find("1")
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        users.find("2")


@pytest.mark.parametrize(
    "line",
    ["x\n", "[]\n", '{"user_id": 1, "features": {}}\n', '{"user_id": "1"}\n', '{"user_id": "1", "features": [1]}\n'],
)
def test_names_the_line_that_is_no_user(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "users.jsonl", {"user_id": "0", "features": {}}, line)
    with pytest.raises(SettingsError, match="line 2: expected"):
        Users(path)


def test_refuses_an_empty_file_of_users(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is empty"):
        Users(write(tmp_path / "users.jsonl"))
