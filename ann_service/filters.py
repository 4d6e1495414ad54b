"""Conditions on item attributes: a proto `Filter` to a bitset over the items.

A comparison is true or false for every item, false where the item has no value; ``not`` is plain negation, so an item
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
_ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "string": ("string_value",),
    "string_list": ("string_value",),
    "int": ("int_value",),
    "float": ("float_value", "int_value"),
}


def match(items: ItemTable, cache: BitsetCache, condition: pb.Filter, path: str) -> Matches:
    """Returns which items match.

    Args:
        items: of the bundle.
        cache: of what was asked before of these items, whole filters and their parts.
        condition: to match.
        path: of the field, for violations.

    Raises:
        InvalidRequest: an unknown attribute, a value of another type, or too deep or too long.
    """
    key = ("rows", canonical(condition))
    found = cache.get(key)
    if found is None:
        # Only what is valid was ever cached, so that a filter that was found needs no check.
        bits = _Matcher(items, cache).match(condition, path, 1)
        found = cache.put(key, Matches.of(bits, len(items.ids), with_rows=True))
    return found


def canonical(condition: pb.Filter) -> Any:
    """Returns a key that filters share which are the same but for order, repeats, and how one value is written."""
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
            keys = {repr(key): key for key in map(canonical, parts)}
            return kind, tuple(keys[text] for text in sorted(keys))
        case "not":
            return "not", canonical(getattr(condition, "not"))
        case _:
            return (None,)


def _value_key(value: pb.AttributeValue) -> tuple[str, str]:
    kind = value.WhichOneof("kind") or ""
    return kind, repr(getattr(value, kind)) if kind else ""


class _Matcher:
    """Evaluates one filter; counts its conditions."""

    def __init__(self, items: ItemTable, cache: BitsetCache) -> None:
        self._items = items
        self._cache = cache
        self._count = 0

    def match(self, condition: pb.Filter, path: str, level: int) -> np.ndarray:
        """Returns the bitset of a condition: [ceil(item_count / 8)] uint8."""
        self._count += 1
        if level > MAX_LEVELS:
            raise _invalid(path, f"more than {MAX_LEVELS} levels of conditions")
        if self._count > MAX_CONDITIONS:
            raise _invalid(path, f"more than {MAX_CONDITIONS} conditions in all")
        kind = condition.WhichOneof("condition")
        match kind:
            case "equals" | "in" | "range":
                key = canonical(condition)
                found = self._cache.get(key)
                if found is None:
                    mask = self._compare(condition, path)
                    found = self._cache.put(key, Matches.of(pack(mask), len(mask), with_rows=False))
                return found.bits
            case "all_of" | "any_of":
                parts: Sequence[pb.Filter] = getattr(condition, kind).filters
                if not parts:
                    raise _invalid(f"{path}.{kind}.filters", "empty, expected at least one condition")
                combine = np.bitwise_and if kind == "all_of" else np.bitwise_or
                bits = self.match(parts[0], f"{path}.{kind}.filters[0]", level + 1)
                for number, part in enumerate(parts[1:], 1):
                    bits = combine(bits, self.match(part, f"{path}.{kind}.filters[{number}]", level + 1))
                return bits
            case "not":
                bits = ~self.match(getattr(condition, "not"), f"{path}.not", level + 1)
                if beyond := -len(self._items.ids) % 8:
                    bits[-1] &= 0xFF >> beyond  # bits behind the last item stay 0
                return bits
            case _:
                raise _invalid(path, "no condition; set equals, in, range, all_of, any_of or not")

    def _compare(self, condition: pb.Filter, path: str) -> np.ndarray:
        """Returns which items an equals, in or range condition holds for: [item_count] bool."""
        match condition.WhichOneof("condition"):
            case "equals":
                return self._match_values(condition.equals.attribute, [condition.equals.value], f"{path}.equals")
            case "in":
                within: pb.In = getattr(condition, "in")  # a keyword, so no attribute syntax
                return self._match_values(within.attribute, within.values, f"{path}.in")
            case _:
                return self._match_range(condition.range, f"{path}.range")

    def _column(self, name: str, path: str) -> Column:
        column = self._items.attributes.get(name)
        if column is None:
            known = ", ".join(sorted(self._items.attributes)) or "none"
            raise _invalid(f"{path}.attribute", f"unknown attribute {name[:80]!r}; the bundle has {known}")
        return column

    def _match_values(self, name: str, values: Sequence[pb.AttributeValue], path: str) -> np.ndarray:
        column = self._column(name, path)
        if not 1 <= len(values) <= MAX_VALUES:
            raise _invalid(f"{path}.values", f"{len(values)} values, expected 1 to {MAX_VALUES}")
        wanted = [_read_value(value, column, path) for value in values]
        if isinstance(column, IntColumn):
            return np.isin(column.numbers, np.array(wanted, dtype=np.int64)) & column.present
        if isinstance(column, FloatColumn):
            # An int that no float equals matches nothing; converted, it would match its neighbour.
            numbers = [float(value) for value in wanted if float(value) == value]
            return np.isin(column.numbers, np.array(numbers, dtype=np.float64))  # NaN, missing, equals nothing
        codes = column.values.find(wanted)
        hits = np.isin(column.codes, codes[codes != ABSENT])
        if isinstance(column, StringColumn):
            return hits
        before = np.concatenate([[0], np.cumsum(hits)])  # hits before each code
        return before[column.offsets[1:]] > before[column.offsets[:-1]]  # [item_count]

    def _match_range(self, bounds: pb.Range, path: str) -> np.ndarray:
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
        # In whole numbers: int64 compared as float64 would be off beyond 2**53.
        smallest = _INT64.min if low <= _INT64.min else math.ceil(low)
        largest = _INT64.max if high >= _INT64.max else math.floor(high)
        if smallest > _INT64.max:
            return np.zeros(len(column.numbers), dtype=bool)
        return (column.numbers >= smallest) & (column.numbers <= largest) & column.present


def _read_value(value: pb.AttributeValue, column: Column, path: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind not in _ACCEPTED[column.type]:
        accepted = " or ".join(_ACCEPTED[column.type])
        raise _invalid(f"{path}.value", f"{kind or 'no value'}, expected {accepted}: the attribute is a {column.type}")
    if kind == "float_value" and not math.isfinite(value.float_value):
        raise _invalid(f"{path}.value", "NaN or infinite, expected a finite number")
    return getattr(value, kind)


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([(field, description)])
