"""Bitsets of items, and the cache of bitsets that threads share."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ann_service.bitsets import BitsetCache, Matches, pack
from ann_service.filters.conditions import compute_keys, parse
from ann_service.filters.match import match
from retrieval.bundle.catalogue.items import IntColumn, ItemTable, StringColumn
from retrieval.steps import run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb

TABLE = ItemTable.of(
    tuple(f"i{row}" for row in range(1001)),
    {
        "year": IntColumn.of([row % 50 for row in range(1001)]),
        "colour": StringColumn.of([("red", "green", "blue")[row % 3] for row in range(1001)]),
    },
)


def colour(*names: str) -> pb.Filter:
    values = [pb.AttributeValue(string_value=name) for name in names]
    return pb.Filter(**{"in": pb.In(attribute="colour", values=values)})


def year(low: float, high: float) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute="year", min=low, max=high))


def all_of(*parts: pb.Filter) -> pb.Filter:
    return pb.Filter(all_of=pb.Filters(filters=parts))


def key_of(condition: pb.Filter) -> bytes:
    parsed = run_to_end(parse(condition, "f"))
    run_to_end(compute_keys(parsed))
    return parsed[0].key


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.booleans())
def test_matches_agree_with_the_mask(mask: list[bool], with_rows: bool) -> None:
    matches = Matches.of(pack(np.array(mask)), len(mask), with_rows=with_rows)
    expected = [row for row, inside in enumerate(mask) if inside]
    assert matches.count == len(expected)
    assert matches.rows.tolist() == expected
    assert matches.complement.tolist() == [not inside for inside in mask]
    assert matches.contains(np.arange(len(mask))).tolist() == mask


def test_equivalent_filters_share_a_key() -> None:
    single = pb.Filter(equals=pb.Equals(attribute="colour", value=pb.AttributeValue(string_value="red")))
    assert key_of(single) == key_of(colour("red")) == key_of(colour("red", "red"))
    assert key_of(colour("red", "blue")) == key_of(colour("blue", "red"))
    assert key_of(all_of(single, year(1, 2))) == key_of(all_of(year(1, 2), single, single))


def test_different_filters_have_different_keys() -> None:
    number = pb.Filter(equals=pb.Equals(attribute="year", value=pb.AttributeValue(int_value=1)))
    text = pb.Filter(equals=pb.Equals(attribute="year", value=pb.AttributeValue(string_value="1")))
    conditions = [
        number,
        text,
        colour("red"),
        colour("red", "blue"),
        year(1, 2),
        year(1, 3),
        pb.Filter(range=pb.Range(attribute="year", min=1)),
        pb.Filter(range=pb.Range(attribute="year", max=1)),
        pb.Filter(**{"not": colour("red")}),
        all_of(colour("red")),
        pb.Filter(any_of=pb.Filters(filters=[colour("red")])),
        all_of(colour("red"), colour("blue")),
        colour("ab", "c"),
        colour("a", "bc"),
        pb.Filter(**{"in": pb.In(attribute="colourr", values=[pb.AttributeValue(string_value="ed")])}),
    ]
    assert len({key_of(condition) for condition in conditions}) == len(conditions)


def test_a_repeated_filter_comes_from_the_cache_in_any_order_of_its_conditions() -> None:
    cache = BitsetCache(1 << 20)
    first = match(TABLE, cache, all_of(colour("red"), year(0, 10)), "f")
    assert match(TABLE, cache, all_of(year(0, 10), colour("red")), "f") is first
    # Rows are multiples of 3 whose remainder by 50 is at most 10.
    assert first.rows.tolist() == [row for row in range(0, 1001, 3) if row % 50 <= 10]


def test_cache_stays_within_its_size_and_drops_the_least_recently_used() -> None:
    cache = BitsetCache(12_000)
    kept = match(TABLE, cache, year(0, 0), "f")
    for high in range(1, 30):
        match(TABLE, cache, year(0, 0), "f")
        match(TABLE, cache, year(0, high), "f")
        assert 0 < cache.size_bytes <= 12_000
    assert match(TABLE, cache, year(0, 0), "f") is kept
    oldest = cache.get(b"rows" + key_of(year(0, 1)))
    assert oldest is None


def test_a_cache_of_size_0_keeps_nothing() -> None:
    cache = BitsetCache(0)
    assert match(TABLE, cache, colour("red"), "f").count == 334  # rows 0, 3, …, 999
    assert cache.size_bytes == 0


def test_threads_that_share_a_small_cache_get_right_answers() -> None:
    cache = BitsetCache(9000)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 50, 200).tolist():
            rows = match(TABLE, cache, year(number, number), "f").rows
            if rows.tolist() != list(range(number, 1001, 50)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.size_bytes <= 9000


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1001])
def test_a_negation_matches_no_bits_after_the_last_item(count: int) -> None:
    table = ItemTable.of(tuple(map(str, range(count))), {"year": IntColumn.of([1] * count)})
    nothing = pb.Filter(**{"not": year(1, 1)})
    assert match(table, BitsetCache(0), nothing, "f").count == 0
    assert match(table, BitsetCache(0), pb.Filter(**{"not": nothing}), "f").count == count
