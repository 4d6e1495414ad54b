"""Measures uncached filters, and the longest step of each: ``python -m benchmarks.index.filter_steps``.

The server runs other calls between two steps, so the longest step is what one filter adds to the wait of others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ann_service.bitsets import BitsetCache
from ann_service.filters.match import match_steps
from benchmarks.timing import print_table
from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.bundle.catalogue.string_table import Strings
from two_tower.ann.v1 import ann_service_pb2 as pb

_TAGS = 5_000
_TAGS_PER_ITEM = 4


def main() -> None:
    """Makes a table of items and prints the times of filters of many kinds and of every limit."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.filter_steps", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    items = _make_items(arguments.items)
    rows = [[name, *_measure(items, filter_, arguments.rounds)] for name, filter_ in _filters(items).items()]
    print_table(
        f"{arguments.items:,} items", ["filter", "whole ms", "steps", "median step us", "longest step us"], rows
    )


def _measure(items: ItemTable, filter_: pb.Filter, rounds: int) -> list[str]:
    """Returns table cells: time of the whole evaluation, number of steps, median and longest step.

    Each step is measured in every round, and its shortest time counts: other load of the machine only adds to it.
    """
    measured = np.array([_step_seconds(items, filter_) for _ in range(rounds)])  # [rounds, steps]
    shortest = measured.min(axis=0) * 1e6
    return [
        f"{shortest.sum() / 1e3:,.2f}",
        f"{len(shortest):,}",
        f"{np.median(shortest):,.0f}",
        f"{shortest.max():,.0f}",
    ]


def _step_seconds(items: ItemTable, filter_: pb.Filter) -> list[float]:
    steps = match_steps(items, BitsetCache(0), filter_, "filter")
    seconds: list[float] = []
    is_running = True
    while is_running:
        started = time.perf_counter()
        is_running = next(steps, False) is None
        seconds.append(time.perf_counter() - started)
    return seconds


def _make_items(item_count: int) -> ItemTable:
    """Returns items with one attribute of each type; `sku` has a distinct value for each item."""
    generator = np.random.default_rng(3)
    ids = Strings.of(f"item-{row}" for row in range(item_count))
    tags = Strings.of(f"tag-{number}" for number in range(_TAGS))
    lengths = generator.integers(0, 2 * _TAGS_PER_ITEM + 1, item_count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes = generator.integers(0, _TAGS, offsets[-1]).astype(np.int32)
    present = np.ones(item_count, dtype=bool)
    return ItemTable(
        ids,
        {
            "sku": StringColumn(generator.permutation(item_count).astype(np.int32), ids),
            "tags": StringListColumn(codes, offsets, tags),
            "year": IntColumn(generator.integers(1900, 2026, item_count), present),
            "number": IntColumn(generator.integers(-(2**62), 2**62, item_count), present),
            "price": FloatColumn(generator.random(item_count)),
        },
    )


def _filters(items: ItemTable) -> dict[str, pb.Filter]:
    generator = np.random.default_rng(5)
    skus = [f"item-{row}" for row in generator.permutation(len(items.ids))[:10_000]]
    numbers = generator.permutation(items.attributes["number"].numbers)[:10_000].tolist()  # type: ignore[union-attr]
    prices = generator.permutation(items.attributes["price"].numbers)[:10_000].tolist()  # type: ignore[union-attr]
    tags = [f"tag-{number}" for number in range(_TAGS)]
    ranges = [_range("price", number / 2000, None) for number in range(999)]
    return {
        "year = 1990": _in("year", [1990]),
        "tags contains one tag": _in("tags", tags[:1]),
        "year, tags and price": _all_of([_in("year", [1990]), _in("tags", tags[:3]), _range("price", 0.1, 0.9)]),
        "price from 0.7": _range("price", 0.7, None),
        "year in 50": _in("year", list(range(1950, 2000))),
        "sku in 10,000": _in("sku", skus),
        "tags in 5,000": _in("tags", tags),
        "number in 10,000": _in("number", numbers),
        "price in 10,000": _in("price", prices),
        "sku and number in 10,000 each": _all_of([_in("sku", skus), _in("number", numbers)]),
        "999 ranges": _all_of(ranges),
        "999 values": pb.Filter(any_of=pb.Filters(filters=[_in("sku", [sku]) for sku in skus[:999]])),
        "15 negations": _negated(_range("price", 0.7, None), 15),
    }


def _value(value: Any) -> pb.AttributeValue:
    kind = {str: "string_value", int: "int_value", float: "float_value"}[type(value)]
    return pb.AttributeValue(**{kind: value})


def _in(attribute: str, values: Sequence[Any]) -> pb.Filter:
    return pb.Filter(**{"in": pb.In(attribute=attribute, values=map(_value, values))})


def _range(attribute: str, low: float | None, high: float | None) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute=attribute, min=low, max=high))


def _all_of(filters: Sequence[pb.Filter]) -> pb.Filter:
    return pb.Filter(all_of=pb.Filters(filters=filters))


def _negated(filter_: pb.Filter, times: int) -> pb.Filter:
    for _ in range(times):
        filter_ = pb.Filter(**{"not": filter_})
    return filter_


if __name__ == "__main__":
    main()
