"""Evaluates filters: conditions on item attributes, from a proto `Filter` to a bitset over the items.

A comparison is true or false for every item, and false if the item has no value. ``not`` is plain negation, so an item
without a value matches the ``not`` of every comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ann_service.bitsets import BitsetCache, Matches, pack
from retrieval.bundle.catalogue.items import Column, FloatColumn, IntColumn, ItemTable, StringColumn
from retrieval.bundle.catalogue.string_table import ABSENT
from retrieval.serving.rpc.errors import InvalidRequest
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_LEVELS = 16
MAX_CONDITIONS = 1000
MAX_VALUES = 10_000

_INT64 = np.iinfo(np.int64)
_ACCEPTED_VALUES: Mapping[str, tuple[str, ...]] = {
    "string": ("string_value",),
    "string_list": ("string_value",),
    "int": ("int_value",),
    "float": ("float_value", "int_value"),
}
"""Fields of `AttributeValue` that an attribute of each type accepts."""


def match(items: ItemTable, cache: BitsetCache, condition: pb.Filter, path: str) -> Matches:
    """Returns the items that match a filter.

    Args:
        items: items of the bundle.
        cache: matches of earlier filters over the same items, and of their comparisons.
        condition: filter to evaluate.
        path: path of the filter in the request, for violations.

    Raises:
        InvalidRequest: an attribute is unknown, a value has the wrong type, or the filter is too deep or too long.
    """
    key = ("rows", canonical_key(condition))
    matches = cache.get(key)
    if matches is None:
        # Only valid filters are ever cached, so a filter from the cache needs no check.
        bits = _Evaluator(items, cache).evaluate(condition, path, 1)
        matches = cache.put(key, Matches.of(bits, len(items.ids), with_rows=True))
    return matches


def canonical_key(condition: pb.Filter) -> Any:
    """Returns a hashable key of a filter.

    Filters have the same key if they differ only in the order or repetition of conditions and values, or if one of them
    has ``equals`` where the other has ``in`` with a single value.
    """
    kind = condition.WhichOneof("condition")
    match kind:
        case "equals":
            return "in", condition.equals.attribute, (_value_key(condition.equals.value),)
        case "in":
            within: pb.In = getattr(condition, "in")
            return "in", within.attribute, tuple(sorted({_value_key(value) for value in within.values}))
        case "range":
            bounds = condition.range
            low = bounds.min if bounds.HasField("min") else None
            return "range", bounds.attribute, low, bounds.max if bounds.HasField("max") else None
        case "all_of" | "any_of":
            parts: Sequence[pb.Filter] = getattr(condition, kind).filters
            keys = {repr(key): key for key in map(canonical_key, parts)}
            return kind, tuple(keys[text] for text in sorted(keys))
        case "not":
            return "not", canonical_key(getattr(condition, "not"))
        case _:
            return (None,)


def _value_key(value: pb.AttributeValue) -> tuple[str, str]:
    kind = value.WhichOneof("kind") or ""
    return kind, repr(getattr(value, kind)) if kind else ""


class _Evaluator:
    """Evaluates one filter, and counts its conditions."""

    def __init__(self, items: ItemTable, cache: BitsetCache) -> None:
        self._items = items
        self._cache = cache
        self._condition_count = 0

    def evaluate(self, condition: pb.Filter, path: str, level: int) -> np.ndarray:
        """Returns the bitset of the items that match a condition: [ceil(item_count / 8)] uint8."""
        self._condition_count += 1
        if level > MAX_LEVELS:
            raise _invalid(path, f"more than {MAX_LEVELS} levels of conditions")
        if self._condition_count > MAX_CONDITIONS:
            raise _invalid(path, f"more than {MAX_CONDITIONS} conditions in all")
        kind = condition.WhichOneof("condition")
        match kind:
            case "equals" | "in" | "range":
                key = canonical_key(condition)
                matches = self._cache.get(key)
                if matches is None:
                    mask = self._compare(condition, path)  # [item_count]
                    matches = self._cache.put(key, Matches.of(pack(mask), len(mask), with_rows=False))
                return matches.bits
            case "all_of" | "any_of":
                parts: Sequence[pb.Filter] = getattr(condition, kind).filters
                if not parts:
                    raise _invalid(f"{path}.{kind}.filters", "empty, expected at least one condition")
                combine = np.bitwise_and if kind == "all_of" else np.bitwise_or
                bits = self.evaluate(parts[0], f"{path}.{kind}.filters[0]", level + 1)
                for number, part in enumerate(parts[1:], 1):
                    bits = combine(bits, self.evaluate(part, f"{path}.{kind}.filters[{number}]", level + 1))
                return bits
            case "not":
                bits = ~self.evaluate(getattr(condition, "not"), f"{path}.not", level + 1)
                if unused := -len(self._items.ids) % 8:
                    bits[-1] &= 0xFF >> unused  # the bits after the last item stay 0
                return bits
            case _:
                raise _invalid(path, "no condition; set equals, in, range, all_of, any_of or not")

    def _compare(self, condition: pb.Filter, path: str) -> np.ndarray:
        """Returns which items match an ``equals``, ``in`` or ``range`` condition: [item_count] bool."""
        match condition.WhichOneof("condition"):
            case "equals":
                return self._compare_values(condition.equals.attribute, [condition.equals.value], f"{path}.equals")
            case "in":
                within: pb.In = getattr(condition, "in")  # a keyword, so there is no attribute syntax for it
                return self._compare_values(within.attribute, within.values, f"{path}.in")
            case _:
                return self._compare_range(condition.range, f"{path}.range")

    def _column(self, name: str, path: str) -> Column:
        column = self._items.attributes.get(name)
        if column is None:
            known = ", ".join(sorted(self._items.attributes)) or "none"
            raise _invalid(f"{path}.attribute", f"unknown attribute {name[:80]!r}; the bundle has {known}")
        return column

    def _compare_values(self, name: str, values: Sequence[pb.AttributeValue], path: str) -> np.ndarray:
        """Returns which items have one of the values: [item_count] bool."""
        column = self._column(name, path)
        if not 1 <= len(values) <= MAX_VALUES:
            raise _invalid(f"{path}.values", f"{len(values)} values, expected 1 to {MAX_VALUES}")
        wanted = [_parse_value(value, column, path) for value in values]
        if isinstance(column, IntColumn):
            return np.isin(column.numbers, np.array(wanted, dtype=np.int64)) & column.present
        if isinstance(column, FloatColumn):
            # An int that is not exactly a float matches nothing. Converted, it would match the nearest float.
            numbers = [float(value) for value in wanted if float(value) == value]
            return np.isin(column.numbers, np.array(numbers, dtype=np.float64))  # NaN, a missing value, equals nothing
        codes = column.values.find(wanted)  # [len(values)]
        hits = np.isin(column.codes, codes[codes != ABSENT])
        if isinstance(column, StringColumn):
            return hits
        hits_before = np.concatenate([[0], np.cumsum(hits)])  # [code count + 1]
        return hits_before[column.offsets[1:]] > hits_before[column.offsets[:-1]]  # [item_count]

    def _compare_range(self, bounds: pb.Range, path: str) -> np.ndarray:
        """Returns which items have a number from ``min`` to ``max``, both included: [item_count] bool."""
        column = self._column(bounds.attribute, path)
        if not isinstance(column, IntColumn | FloatColumn):
            raise _invalid(f"{path}.attribute", f"{bounds.attribute} is of type {column.type}, expected int or float")
        if not (bounds.HasField("min") or bounds.HasField("max")):
            raise _invalid(path, "neither min nor max, expected at least one")
        low = bounds.min if bounds.HasField("min") else -math.inf
        high = bounds.max if bounds.HasField("max") else math.inf
        if math.isnan(low) or math.isnan(high):
            raise _invalid(path, "NaN, expected a number")
        if isinstance(column, FloatColumn):
            return (column.numbers >= low) & (column.numbers <= high)
        if low > high or low > _INT64.max or high < _INT64.min:
            return np.zeros(len(column.numbers), dtype=bool)
        # Compared as integers: int64 converted to float64 would be inexact beyond 2**53.
        smallest = _INT64.min if low <= _INT64.min else math.ceil(low)
        largest = _INT64.max if high >= _INT64.max else math.floor(high)
        if smallest > _INT64.max:
            return np.zeros(len(column.numbers), dtype=bool)
        return (column.numbers >= smallest) & (column.numbers <= largest) & column.present


def _parse_value(value: pb.AttributeValue, column: Column, path: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind not in _ACCEPTED_VALUES[column.type]:
        accepted = " or ".join(_ACCEPTED_VALUES[column.type])
        raise _invalid(f"{path}.value", f"{kind or 'no value'}, expected {accepted}: the attribute is a {column.type}")
    if kind == "float_value" and not math.isfinite(value.float_value):
        raise _invalid(f"{path}.value", "NaN or infinite, expected a finite number")
    return getattr(value, kind)


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([(field, description)])
