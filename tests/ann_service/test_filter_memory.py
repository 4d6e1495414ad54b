"""The memory of cached filters, against the limit of the cache."""

from __future__ import annotations

import gc
import tracemalloc

import psutil

from ann_service.bitsets import BitsetCache
from ann_service.filters.match import match
from retrieval.bundle.catalogue.items import IntColumn, ItemTable
from two_tower.ann.v1 import ann_service_pb2 as pb

MIB = 1 << 20
TABLE = ItemTable.of(tuple(map(str, range(100))), {"n": IntColumn.of([row + 10**9 for row in range(100)])})


def within(*values: int) -> pb.Filter:
    return pb.Filter(**{"in": pb.In(attribute="n", values=[pb.AttributeValue(int_value=value) for value in values])})


def rss_mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / MIB


def test_hundreds_of_filters_of_5000_values_take_no_more_than_the_cache_may_hold() -> None:
    cache = BitsetCache(4 * MIB)
    filter_ = within(*range(10**9, 10**9 + 5000))
    values = getattr(filter_, "in").values

    def match_distinct(numbers: range) -> None:
        for number in numbers:
            values[0].int_value = number
            match(TABLE, cache, filter_, "f")

    match_distinct(range(20))
    before = rss_mib()
    match_distinct(range(20, 420))  # with keys that held all values, these took 770 MiB
    assert rss_mib() - before <= 4 + 4  # the limit of the cache, and 4 MiB for the allocator
    assert cache.size_bytes <= 4 * MIB


def test_entries_are_counted_at_no_less_than_they_take() -> None:
    cache = BitsetCache(64 * MIB)
    match(TABLE, cache, within(1), "f")
    gc.collect()
    tracemalloc.start()
    try:
        counted = cache.size_bytes
        for number in range(2000):
            match(TABLE, cache, within(10**9 + number), "f")
        counted = cache.size_bytes - counted
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * counted <= held <= counted
