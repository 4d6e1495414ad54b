"""Filters as messages. Expected messages are in protobuf text format, written by hand."""

import doctest

import pytest
from google.protobuf import text_format

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client import InvalidRequest, filters, results
from two_tower_client.filters import Filter, all_of, any_of, equals, in_range, is_in, not_, parse_condition

ATTRIBUTES = {
    "genres": ann_pb2.ATTRIBUTE_TYPE_STRING_LIST,
    "year": ann_pb2.ATTRIBUTE_TYPE_INT,
    "price": ann_pb2.ATTRIBUTE_TYPE_FLOAT,
}


def message(text: str) -> Filter:
    return text_format.Parse(text, Filter())


@pytest.mark.parametrize("module", [filters, results])
def test_examples_run(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.failed == 0
    assert outcome.attempted > 0


def test_comparisons() -> None:
    assert equals("brand", "x") == message('equals { attribute: "brand" value { string_value: "x" } }')
    assert equals("year", 0) == message('equals { attribute: "year" value { int_value: 0 } }')
    assert equals("price", 0.5) == message('equals { attribute: "price" value { float_value: 0.5 } }')
    assert is_in("year", (1, 2)) == message('in { attribute: "year" values { int_value: 1 } values { int_value: 2 } }')
    assert in_range("year", min=0) == message('range { attribute: "year" min: 0 }')
    assert in_range("year", min=1, max=2) == message('range { attribute: "year" min: 1 max: 2 }')


def test_combinations() -> None:
    one, two = 'equals { attribute: "a" value { int_value: 1 } }', 'range { attribute: "b" max: 2 }'
    first, second = equals("a", 1), in_range("b", max=2)
    assert all_of(first, second) == message(f"all_of {{ filters {{ {one} }} filters {{ {two} }} }}")
    assert any_of(first, not_(second)) == message(f"any_of {{ filters {{ {one} }} filters {{ not {{ {two} }} }} }}")


@pytest.mark.parametrize(
    "build",
    [
        lambda: equals("flag", True),
        lambda: equals("price", float("nan")),
        lambda: equals("year", 2**63),
        lambda: equals("year", None),
        lambda: is_in("year", []),
        lambda: is_in("genres", "Comedy"),
        lambda: in_range("year"),
        lambda: in_range("year", min=float("nan")),
        lambda: all_of(),
        lambda: any_of(),
    ],
)
def test_rejects_what_no_service_can_answer(build) -> None:
    with pytest.raises(InvalidRequest):
        build()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("genres=Comedy", equals("genres", "Comedy")),
        ("genres!=Comedy", not_(equals("genres", "Comedy"))),
        ("genres = Sci-Fi & more=less", equals("genres", "Sci-Fi & more=less")),
        ("year=1990", equals("year", 1990)),
        ("year>=1990", in_range("year", min=1990)),
        ("price<=9.5", in_range("price", max=9.5)),
        ("price=9", equals("price", 9.0)),
        ("genres=>=", equals("genres", ">=")),
    ],
)
def test_command_line(text: str, expected: Filter) -> None:
    assert parse_condition(text, ATTRIBUTES) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("year", "is not name=value"),
        ("year>1990", "is not name=value"),
        ("=1990", "is not name=value"),
        ("colour=red", "no attribute 'colour'; there are genres, price, year"),
        ("year=old", "whole number"),
        ("year>=old", "'old' is not a number"),
    ],
)
def test_command_line_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_condition(text, ATTRIBUTES)
