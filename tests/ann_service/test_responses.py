"""Building SearchItemsResponse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.responses import build_steps
from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.index.hits import Hits
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb

PLAN = SearchPlan(np.zeros(0), 1, None, np.zeros(0, dtype=np.int64), None, exact=False, budget=1)
WITH_ATTRIBUTE = SearchPlan(
    np.zeros(0), 1, None, np.zeros(0, dtype=np.int64), None, exact=False, budget=1, return_attributes=("c",)
)


def catalogue(items: ItemTable) -> Catalogue:
    manifest: Any = SimpleNamespace(model_version="m1", bundle_version="b2")
    index: Any = None
    return Catalogue(manifest, items, np.zeros(0), index)


def build(*arguments: Any) -> pb.SearchItemsResponse:
    return pb.SearchItemsResponse.FromString(run_to_end(build_steps(*arguments)))


def hits(rows: list[int], scores: list[float]) -> Hits:
    return Hits(np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float32))


# Ids of more than 127 bytes are encoded in another way; "é" is two bytes in UTF-8.
@pytest.mark.parametrize("long", ["é" * 3, "x" * 127, "x" * 128, "é" * 20_000])
def test_each_search_gets_its_own_items_and_scores_in_order(long: str) -> None:
    items = ItemTable.of(["a", long, "", "d"], {"c": StringColumn.of([None, "red", "blue", None])})
    results = [hits([1, 3], [0.5, -0.25]), hits([], []), hits([0, 2, 1], [1.0, 0.5, 0.0])]
    response = build(catalogue(items), [PLAN, PLAN, WITH_ATTRIBUTE], results, "m3")
    column = pb.AttributeColumn(name="c", strings=pb.StringColumn(values=["", "blue", "red"]), missing=[0])
    assert list(response.results) == [
        pb.SearchResult(item_ids=[long, "d"], scores=[0.5, -0.25]),
        pb.SearchResult(),
        pb.SearchResult(item_ids=["a", "", long], scores=[1.0, 0.5, 0.0], attributes=[column]),
    ]
    assert (response.model_version, response.bundle_version, response.newest_model_version) == ("m1", "b2", "m3")


def test_searches_without_hits_have_empty_results() -> None:
    items = ItemTable.of(["a"], {})
    response = build(catalogue(items), [PLAN, PLAN], [hits([], [])] * 2, "m3")
    assert list(response.results) == [pb.SearchResult(), pb.SearchResult()]


TEXTS = [None, "", "red", "é" * 70, "x" * 127, "y" * 128, "z" * 20_000]
LISTS = [[], ["a"], ["", "é"], ["x" * 127], ["y" * 130, "a", "a"], ["w"] * 9000, None]
INTS = [0, None, -1, 2**63 - 1, -(2**63), 7, 1990]
FLOATS = [0.0, -1.5, None, 1e300, -0.0, 0.1, 3.0]
ATTRIBUTED = ItemTable.of(
    [f"i{row}" for row in range(7)],
    {
        "text": StringColumn.of(TEXTS),
        "list": StringListColumn.of(LISTS),
        "int": IntColumn.of(INTS),
        "float": FloatColumn.of(FLOATS),
        "no text": StringColumn.of([None] * 7),
        "no list": StringListColumn.of([None] * 7),
    },
)


@given(st.lists(st.lists(st.integers(0, 6), unique=True, max_size=7), min_size=1, max_size=4))
def test_columns_hold_the_values_of_the_rows_and_say_which_are_missing(searches: list[list[int]]) -> None:
    plan = PLAN._replace(return_attributes=tuple(ATTRIBUTED.attributes))
    response = build(
        catalogue(ATTRIBUTED), [plan] * len(searches), [hits(rows, [0.5] * len(rows)) for rows in searches], "m"
    )
    for result, rows in zip(response.results, searches, strict=True):
        text, lists, ints, floats, no_text, no_list = result.attributes
        assert [column.name for column in result.attributes] == list(ATTRIBUTED.attributes)
        assert list(result.item_ids) == [f"i{row}" for row in rows]
        assert list(text.strings.values) == [TEXTS[row] or "" for row in rows]
        assert [list(each.values) for each in lists.string_lists.values] == [LISTS[row] or [] for row in rows]
        assert list(ints.ints.values) == [INTS[row] or 0 for row in rows]
        assert list(floats.floats.values) == [FLOATS[row] or 0.0 for row in rows]
        assert list(no_text.strings.values) == [""] * len(rows)
        assert [list(each.values) for each in no_list.string_lists.values] == [[]] * len(rows)
        missing = [
            [n for n, row in enumerate(rows) if not values[row] and values[row] not in ("", 0)]
            for values in (TEXTS, LISTS, INTS, FLOATS)
        ]
        assert [list(column.missing) for column in result.attributes] == [*missing, *[list(range(len(rows)))] * 2]
        kinds = ["strings", "string_lists", "ints", "floats", "strings", "string_lists"]
        assert [column.WhichOneof("values") for column in result.attributes] == kinds


def test_yields_between_searches_and_between_columns() -> None:
    plan = PLAN._replace(return_attributes=("text", "int"))
    steps = build_steps(catalogue(ATTRIBUTED), [plan] * 10, [hits([1, 2], [0.5, 0.25])] * 10, "m")
    assert sum(1 for _ in steps) >= 20


def test_many_hits_are_split_into_groups_of_searches() -> None:
    rows = list(range(3000))
    items = ItemTable.of([f"item-{row}" for row in rows], {})
    results = [hits(rows[first:], [0.0] * (3000 - first)) for first in (0, 10, 2900, 20)]
    response = build(catalogue(items), [PLAN] * 4, results, "m")
    for result, first in zip(response.results, (0, 10, 2900, 20), strict=True):
        assert list(result.item_ids) == [f"item-{row}" for row in rows[first:]]
