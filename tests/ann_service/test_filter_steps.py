"""Filters over more items than one step compares, and the limits that are checked before any other work."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest

from ann_service.bitsets import BitsetCache
from ann_service.filters.match import match, match_steps
from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.bundle.catalogue.string_table import Strings
from retrieval.serving.answering.errors import InvalidRequest
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = 150_001  # more than two steps, and not a multiple of 8
NAMES = [f"n{code}" for code in range(3000)]


@cache
def table() -> ItemTable:
    generator = np.random.default_rng(1)
    names = Strings.of(NAMES)
    lengths = generator.integers(0, 4, ITEMS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    present = generator.random(ITEMS) < 0.9
    numbers = np.where(present, generator.integers(-(2**62), 2**62, ITEMS), 0)
    numbers[1::3] = np.where(present[1::3], generator.integers(-500, 500, len(numbers[1::3])), 0)
    prices = np.where(generator.random(ITEMS) < 0.9, generator.integers(0, 2000, ITEMS) / 8, np.nan)
    return ItemTable(
        Strings.of(f"i{row}" for row in range(ITEMS)),
        {
            "name": StringColumn(generator.integers(-1, len(NAMES), ITEMS).astype(np.int32), names),
            "tags": StringListColumn(generator.integers(0, len(NAMES), offsets[-1]).astype(np.int32), offsets, names),
            "number": IntColumn(numbers, present),
            "price": FloatColumn(prices),
        },
    )


def within(attribute: str, kind: str, values: Any) -> pb.Filter:
    return pb.Filter(
        **{"in": pb.In(attribute=attribute, values=[pb.AttributeValue(**{kind: value}) for value in values])}
    )


def between(attribute: str, low: float, high: float) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute=attribute, min=low, max=high))


def rows_of(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def matched(filter_: pb.Filter) -> list[int]:
    return match(table(), BitsetCache(0), filter_, "f").rows.tolist()


@pytest.mark.parametrize("count", [1, 16, 17, 2000])
def test_strings_match_on_both_sides_of_each_step(count: int) -> None:
    codes = np.random.default_rng(2).permutation(len(NAMES))[:count]
    values = [*(NAMES[code] for code in codes), "unknown"]
    names, tags = table().attributes["name"], table().attributes["tags"]
    assert isinstance(names, StringColumn)
    assert isinstance(tags, StringListColumn)
    assert matched(within("name", "string_value", values)) == rows_of(np.isin(names.codes, codes))
    owners = np.repeat(np.arange(ITEMS), np.diff(tags.offsets))  # [total], row of each tag
    assert matched(within("tags", "string_value", values)) == np.unique(owners[np.isin(tags.codes, codes)]).tolist()


@pytest.mark.parametrize("count", [1, 64, 65, 4000])
def test_numbers_match_on_both_sides_of_each_step(count: int) -> None:
    numbers, prices = table().attributes["number"], table().attributes["price"]
    assert isinstance(numbers, IntColumn)
    assert isinstance(prices, FloatColumn)
    # Numbers that agree with a stored one in the low bits are there too, and the 0 of the items without a number.
    wanted = [*numbers.numbers[:count].tolist(), *(numbers.numbers[:count] ^ (1 << 40)).tolist(), 0]
    expected = np.isin(numbers.numbers, wanted) & numbers.present
    assert matched(within("number", "int_value", wanted)) == rows_of(expected)
    present = prices.numbers[~np.isnan(prices.numbers)]
    values = [*present[:count].tolist(), 0.3]
    assert matched(within("price", "float_value", values)) == rows_of(np.isin(prices.numbers, values))


def test_combined_conditions_match_on_both_sides_of_each_step() -> None:
    numbers, prices = table().attributes["number"], table().attributes["price"]
    assert isinstance(numbers, IntColumn)
    assert isinstance(prices, FloatColumn)
    cheap, small = between("price", 10, 60), between("number", -100, 100)
    is_cheap = (prices.numbers >= 10) & (prices.numbers <= 60)
    is_small = (numbers.numbers >= -100) & (numbers.numbers <= 100) & numbers.present
    both = pb.Filter(all_of=pb.Filters(filters=[cheap, small, cheap]))
    either = pb.Filter(any_of=pb.Filters(filters=[cheap, pb.Filter(**{"not": small})]))
    assert matched(both) == rows_of(is_cheap & is_small)
    assert matched(either) == rows_of(is_cheap | ~is_small)
    shared = BitsetCache(1 << 22)
    for filter_ in (both, either, both, either):  # conditions from the cache stay what they were
        expected = is_cheap & is_small if filter_ is both else is_cheap | ~is_small
        assert match(table(), shared, filter_, "f").rows.tolist() == rows_of(expected)


def test_each_step_compares_a_part_of_the_items() -> None:
    steps = match_steps(table(), BitsetCache(0), between("price", 10, 60), "f")
    assert sum(1 for _ in steps) >= 3  # of at most 65,536 items each


@pytest.mark.parametrize(
    ("filter_", "field", "fault"),
    [
        (within("number", "int_value", range(10_001)), "f.in.values", "10001 values, expected 1 to 10000"),
        (
            pb.Filter(
                any_of=pb.Filters(filters=[within("number", "int_value", range(n)) for n in (10_000, 10_000, 1)])
            ),
            "f",
            "more than 20000 values in all",
        ),
        (
            pb.Filter(
                **{"not": pb.Filter(all_of=pb.Filters(filters=[within("name", "string_value", ["a"])] * 500_000))}
            ),
            "f",
            "more than 1000 conditions in all",
        ),
    ],
)
def test_limits_are_checked_before_any_value_is_read(filter_: pb.Filter, field: str, fault: str) -> None:
    steps = match_steps(table(), BitsetCache(0), filter_, "f")
    with pytest.raises(InvalidRequest) as caught:
        # One step for each condition on the way; reading 20,000 values takes 40.
        list(islice(steps, 6))
    assert list(caught.value.violations) == [(field, fault)]


def test_twenty_thousand_values_are_within_the_limit() -> None:
    halves = [within("number", "int_value", range(start, start + 10_000)) for start in (0, 10_000)]
    numbers = table().attributes["number"]
    assert isinstance(numbers, IntColumn)
    expected = (numbers.numbers >= 0) & (numbers.numbers < 20_000) & numbers.present
    assert matched(pb.Filter(any_of=pb.Filters(filters=halves))) == rows_of(expected)
