"""Filters as protobuf messages, against messages written by hand in protobuf text format."""

import doctest

import pytest
from google.protobuf import text_format

from two_tower_client import InvalidRequest, filters, results
from two_tower_client.filters import Filter, all_of, any_of, equals, in_range, is_in, not_


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
    sku = 2**53 + 1
    assert in_range("sku", min=sku, max=2**53) == message(
        'range { attribute: "sku" min_int: 9007199254740993 max: 9007199254740992 }'
    )
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
        lambda: in_range("year", min=2**63),
        lambda: all_of(),
        lambda: any_of(),
    ],
)
def test_rejects_what_no_service_can_answer(build) -> None:
    with pytest.raises(InvalidRequest):
        build()
