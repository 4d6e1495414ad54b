"""Filters, against an item-by-item evaluation in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ann_service.bitsets import BitsetCache
from ann_service.filters.match import match
from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.serving.answering.errors import InvalidRequest
from two_tower.ann.v1 import ann_service_pb2 as pb

BIG = 2**53 + 1  # float64 rounds it to its neighbour
ROWS: list[dict[str, Any]] = [
    {"title": "a", "genres": ["x"], "year": 1990, "price": 1.5},
    {"title": "b", "genres": ["x", "y"], "year": BIG, "price": float(2**53)},
    {"title": None, "genres": [], "year": None, "price": None},
    {"title": "a", "genres": ["y", "z"], "year": -5, "price": -0.0},
    {"title": "c", "genres": [], "year": 2**63 - 1, "price": math.inf},
    {"title": "", "genres": ["z"], "year": -(2**63), "price": 1990.0},
]


def make_table() -> ItemTable:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    return ItemTable.of(
        tuple("012345"),
        {
            "title": StringColumn.of(columns["title"]),
            "genres": StringListColumn.of(columns["genres"]),
            "year": IntColumn.of(columns["year"]),
            "price": FloatColumn.of(columns["price"]),
        },
    )


TABLE = make_table()


def value_of(value: Any) -> pb.AttributeValue:
    if isinstance(value, str):
        return pb.AttributeValue(string_value=value)
    return pb.AttributeValue(int_value=value) if isinstance(value, int) else pb.AttributeValue(float_value=value)


def equals(name: str, value: Any) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute=name, value=value_of(value)))


def within(name: str, *values: Any) -> pb.Filter:
    return pb.Filter(**{"in": pb.In(attribute=name, values=[value_of(value) for value in values])})


def between(name: str, low: float | None, high: float | None) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute=name, min=low, max=high))


def between_ints(name: str, low: int | None, high: int | None) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute=name, min_int=low, max_int=high))


def no(condition: pb.Filter) -> pb.Filter:
    return pb.Filter(**{"not": condition})


def matched(condition: pb.Filter) -> list[int]:
    return match(TABLE, BitsetCache(0), condition, "filter").rows.tolist()


def evaluate(condition: pb.Filter, row: dict[str, Any]) -> bool:
    kind = condition.WhichOneof("condition")
    part = getattr(condition, kind)
    if kind in ("all_of", "any_of"):
        return (all if kind == "all_of" else any)([evaluate(sub, row) for sub in part.filters])
    if kind == "not":
        return not evaluate(part, row)
    value = row[part.attribute]
    if value is None:
        return False
    if kind == "range":
        low, high = ([getattr(part, n) for n in (name, f"{name}_int") if part.HasField(n)] for name in ("min", "max"))
        return all(bound <= value for bound in low) and all(value <= bound for bound in high)
    wanted = [getattr(v, v.WhichOneof("kind")) for v in ([part.value] if kind == "equals" else part.values)]
    return any(each in wanted for each in (value if isinstance(value, list) else [value]))


texts = st.sampled_from(["a", "b", "c", "x", "y", "z", "", "nowhere"])
ints = st.sampled_from([1990, BIG, BIG - 1, -5, 0, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
floats = st.sampled_from([1.5, 0.0, 2.0**53, 1990.0, -5.5]) | st.floats(allow_nan=False, allow_infinity=False)
bounds = st.floats(allow_nan=False) | ints.map(float)
leaves = st.one_of(
    st.builds(equals, st.sampled_from(["title", "genres"]), texts),
    st.builds(equals, st.just("year"), ints),
    st.builds(equals, st.just("price"), floats | ints),
    st.builds(lambda values: within("genres", *values), st.lists(texts, min_size=1, max_size=4)),
    st.builds(lambda values: within("year", *values), st.lists(ints, min_size=1, max_size=4)),
    st.builds(lambda values: within("price", *values), st.lists(floats | ints, min_size=1, max_size=4)),
    st.builds(between, st.sampled_from(["year", "price"]), bounds, st.none() | bounds),
    st.builds(between, st.sampled_from(["year", "price"]), st.none(), bounds),
    st.builds(between_ints, st.sampled_from(["year", "price"]), ints, st.none() | ints),
    st.builds(between_ints, st.sampled_from(["year", "price"]), st.none(), ints),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(no, inner),
        st.builds(lambda fs: pb.Filter(all_of=pb.Filters(filters=fs)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda fs: pb.Filter(any_of=pb.Filters(filters=fs)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


@given(conditions)
def test_matches_what_a_plain_evaluation_matches(condition: pb.Filter) -> None:
    assert matched(condition) == [number for number, row in enumerate(ROWS) if evaluate(condition, row)]


def test_item_without_a_value_matches_only_the_negation() -> None:
    assert matched(equals("title", "a")) == [0, 3]
    assert matched(no(equals("title", "a"))) == [1, 2, 4, 5]
    assert matched(within("genres", "x", "z")) == [0, 1, 3, 5]
    assert matched(no(between("year", -1e30, None))) == [2]


def test_whole_numbers_are_compared_exactly() -> None:
    assert matched(equals("year", BIG)) == [1]
    assert matched(equals("year", BIG - 1)) == []
    assert matched(equals("price", BIG)) == []
    assert matched(between("year", None, float(2**53))) == [0, 3, 5]
    assert matched(between("year", 2.0**63, None)) == []


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (pb.Filter(), "f"),
        (equals("colour", "red"), "f.equals.attribute"),
        (equals("title", 3), "f.equals.value"),
        (equals("year", 3.0), "f.equals.value"),
        (equals("price", math.nan), "f.equals.value"),
        (pb.Filter(equals=pb.Equals(attribute="year")), "f.equals.value"),
        (within("year"), "f.in.values"),
        (within("year", 1, "a"), "f.in.value"),
        (between("title", 1, 2), "f.range.attribute"),
        (between("year", None, None), "f.range"),
        (between("price", math.nan, None), "f.range"),
        (pb.Filter(all_of=pb.Filters()), "f.all_of.filters"),
        (
            pb.Filter(any_of=pb.Filters(filters=[equals("year", 1), no(equals("year", "a"))])),
            "f.any_of.filters[1].not.equals.value",
        ),
    ],
)
def test_says_which_condition_is_wrong(condition: pb.Filter, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        match(TABLE, BitsetCache(0), condition, "f")
    assert [violation[0] for violation in caught.value.violations] == [field]


def test_sixteen_levels_and_a_thousand_conditions_are_the_limit() -> None:
    deep = equals("title", "a")
    for _ in range(15):
        deep = no(deep)
    assert matched(deep) == [1, 2, 4, 5]  # 15 negations
    with pytest.raises(InvalidRequest, match="16 levels"):
        match(TABLE, BitsetCache(0), no(deep), "f")
    many = [equals("title", "a")] * 999
    assert matched(pb.Filter(any_of=pb.Filters(filters=many))) == [0, 3]
    with pytest.raises(InvalidRequest, match="1000 conditions"):
        match(TABLE, BitsetCache(0), pb.Filter(any_of=pb.Filters(filters=[*many, many[0]])), "f")


def test_whole_bounds_are_exact_beyond_what_a_double_holds() -> None:
    assert matched(between_ints("year", BIG, BIG)) == [1]
    assert matched(between_ints("year", BIG + 1, 2**63 - 1)) == [4]
    assert matched(between_ints("year", BIG + 1, BIG + 5)) == []
    assert matched(between_ints("price", BIG, BIG + 5)) == []  # the price is one less
    assert matched(between_ints("price", BIG - 1, BIG)) == [1]


@pytest.mark.parametrize("name", ["min", "max"])
def test_a_bound_is_set_in_one_way(name: str) -> None:
    condition = pb.Filter(range=pb.Range(**{"attribute": "year", name: 1.0, f"{name}_int": 1}))
    with pytest.raises(InvalidRequest, match=f"{name} and {name}_int, expected one of them"):
        matched(condition)
