"""Evaluates a filter to a bitset over the items, in steps.

A comparison is true or false for every item, and false if the item has no value. ``not`` is plain negation, so an item
without a value matches the ``not`` of every comparison.
"""

from __future__ import annotations

import numpy as np

from ann_service.bitsets import BitsetCache, Matches, pack
from ann_service.filters import conditions
from ann_service.filters.comparisons import prepare
from ann_service.filters.conditions import Condition
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.steps import Steps, run_to_end
from two_tower.ann.v1 import ann_service_pb2 as pb


def match_steps(items: ItemTable, cache: BitsetCache, filter_: pb.Filter, path: str) -> Steps[Matches]:
    """Returns the items that match a filter; yields after each step of about 1 ms at most.

    Args:
        items: items of the bundle.
        cache: matches of earlier filters over the same items, and of their comparisons.
        filter_: filter to evaluate.
        path: path of the filter in the request, for violations.

    Raises:
        InvalidRequest: an attribute is unknown, a value has the wrong type, or the filter is too deep or too long.
    """
    # Only valid filters are ever cached, so a filter from the cache needs no check.
    written = conditions.key_as_written(filter_)
    if written is not None and (matches := cache.get(written)) is not None:
        return matches
    yield
    parsed = yield from conditions.parse(filter_, path)
    yield from conditions.compute_keys(parsed)
    key = b"rows" + parsed[0].key
    if (matches := cache.get(key)) is None:
        bits = yield from _evaluate(items, cache, parsed[0])
        matches = cache.put(key, (yield from Matches.steps(bits, len(items.ids), with_rows=True)))
    if written is not None:
        cache.link(written, key)
    return matches


def match(items: ItemTable, cache: BitsetCache, filter_: pb.Filter, path: str) -> Matches:
    """Returns what `match_steps` returns, without a pause."""
    return run_to_end(match_steps(items, cache, filter_, path))


def _evaluate(items: ItemTable, cache: BitsetCache, condition: Condition) -> Steps[np.ndarray]:
    """Returns the bitset of the items that match a condition: [ceil(item_count / 8)] uint8, not to be changed."""
    if not condition.parts:
        matches = cache.get(condition.key)
        if matches is None:
            bits = yield from _compare(items, condition)
            matches = cache.put(condition.key, (yield from Matches.steps(bits, len(items.ids), with_rows=False)))
        return matches.bits
    if condition.kind == "not":
        bits = ~(yield from _evaluate(items, cache, condition.parts[0]))
        if unused := -len(items.ids) % 8:
            bits[-1] &= 0xFF >> unused  # the bits after the last item stay 0
        return bits
    combine = np.bitwise_and if condition.kind == "all_of" else np.bitwise_or
    distinct: dict[bytes, Condition] = {}
    for part in condition.parts:
        distinct.setdefault(part.key, part)
    first, *others = distinct.values()
    bits = yield from _evaluate(items, cache, first)
    if others:
        bits = bits.copy()  # the cache may hold the original
    for part in others:
        combine(bits, (yield from _evaluate(items, cache, part)), out=bits)
        yield
    return bits


def _compare(items: ItemTable, condition: Condition) -> Steps[np.ndarray]:
    """Returns the bitset of the items that match a comparison: [ceil(item_count / 8)] uint8."""
    comparison = yield from prepare(items, condition)
    item_count = len(items.ids)
    bits = np.empty(-(-item_count // 8), dtype=np.uint8)
    for start in range(0, item_count, comparison.rows_per_step):
        end = min(start + comparison.rows_per_step, item_count)
        bits[start // 8 : -(-end // 8)] = pack(comparison.compare(start, end))
        yield
    return bits
