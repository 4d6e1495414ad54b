"""Comparisons of an attribute column with values or with a range, for a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ann_service.filters.conditions import VALUES_PER_STEP, Condition, invalid
from retrieval.bundle.catalogue.items import Column, FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.bundle.catalogue.string_table import ABSENT
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_ROWS_PER_STEP = 65_536
_ROWS_PER_SEARCH_STEP = 8192
"""Number of rows that are looked up among many numbers in one step, up to 100 ns each."""

_FEW_NUMBERS = 64
_FEW_CODES = 16
"""Up to so many values, one comparison of all rows with each value takes less time than a lookup of each row."""

_SLOTS = 1 << 17
"""Size of a table of the low bits of wanted integers, which rules out most rows before the others are looked up."""

_INT64 = np.iinfo(np.int64)
_ACCEPTED_VALUES: Mapping[str, tuple[str, ...]] = {
    "string": ("string_value",),
    "string_list": ("string_value",),
    "int": ("int_value",),
    "float": ("float_value", "int_value"),
}
"""Fields of `AttributeValue` that an attribute of each type accepts."""


@dataclass(frozen=True)
class Comparison:
    """A comparison that is ready to run.

    Attributes:
        compare: Function of a start and an end row that returns which of these rows match: [end - start] bool.
        rows_per_step: Number of rows to compare in one step, a multiple of 8.
    """

    compare: Callable[[int, int], np.ndarray]
    rows_per_step: int = _ROWS_PER_STEP


def prepare(items: ItemTable, condition: Condition) -> Steps[Comparison]:
    """Returns the comparison of an ``equals``, ``in`` or ``range`` condition.

    Args:
        items: items of the bundle.
        condition: condition of one of these kinds.

    Raises:
        InvalidRequest: the attribute is unknown, or a value has the wrong type.
    """
    path = f"{condition.path}.{condition.kind}"
    column = _column(items, condition.body.attribute, path)
    if condition.kind == "range":
        return _compare_range(column, condition.body, path)
    values = [condition.body.value] if condition.kind == "equals" else condition.body.values
    wanted: list[Any] = []
    for start in range(0, len(values), VALUES_PER_STEP):
        wanted.append(_decode(values[start : start + VALUES_PER_STEP], column, path))
        yield
    numbers = np.sort(np.concatenate(wanted))
    yield
    if isinstance(column, IntColumn):
        return _is_in(column.numbers, numbers, column.present)
    if isinstance(column, FloatColumn):
        return _is_in(column.numbers, numbers, None)  # NaN, a missing value, equals nothing
    return _has_code(column, numbers[numbers != ABSENT])


def _column(items: ItemTable, name: str, path: str) -> Column:
    column = items.attributes.get(name)
    if column is None:
        known = ", ".join(sorted(items.attributes)) or "none"
        raise invalid(f"{path}.attribute", f"unknown attribute {name[:80]!r}; the bundle has {known}")
    return column


def _decode(values: Sequence[pb.AttributeValue], column: Column, path: str) -> np.ndarray:
    """Returns values as numbers of the column: [n] int64 or float64; for a column of strings their codes, [n] int64."""
    decoded = [_parse_value(value, column, path) for value in values]
    if isinstance(column, IntColumn):
        return np.array(decoded, dtype=np.int64)
    if isinstance(column, FloatColumn):
        # An int that is not exactly a float matches nothing. Converted, it would match the nearest float.
        return np.array([float(value) for value in decoded if float(value) == value], dtype=np.float64)
    return column.values.find(decoded)


def _parse_value(value: pb.AttributeValue, column: Column, path: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind not in _ACCEPTED_VALUES[column.type]:
        accepted = " or ".join(_ACCEPTED_VALUES[column.type])
        raise invalid(f"{path}.value", f"{kind or 'no value'}, expected {accepted}: the attribute is a {column.type}")
    if kind == "float_value" and not math.isfinite(value.float_value):
        raise invalid(f"{path}.value", "NaN or infinite, expected a finite number")
    return getattr(value, kind)


def _is_in(numbers: np.ndarray, wanted: np.ndarray, present: np.ndarray | None) -> Comparison:
    """Returns the comparison of numbers with wanted numbers.

    Args:
        numbers: [item_count] int64 or float64.
        wanted: [n] of the same type, ascending.
        present: [item_count] bool, which items have a number; None: all items whose number is not NaN.
    """
    few = wanted.tolist() if len(wanted) <= _FEW_NUMBERS else []
    slots = np.zeros(_SLOTS, dtype=bool)
    if wanted.dtype == np.int64:
        slots[wanted & (_SLOTS - 1)] = True

    def contains(chunk: np.ndarray) -> np.ndarray:
        if len(wanted) <= _FEW_NUMBERS:
            return _any_equal(chunk, few)
        if chunk.dtype != np.int64:
            return _search(wanted, chunk)
        hits = slots.take(chunk & (_SLOTS - 1))  # [rows]
        candidates = np.flatnonzero(hits)
        hits[candidates] = _search(wanted, chunk[candidates])
        return hits

    def compare(start: int, end: int) -> np.ndarray:
        hits = contains(numbers[start:end])
        return hits if present is None else hits & present[start:end]

    return Comparison(compare, _ROWS_PER_STEP if len(wanted) <= _FEW_NUMBERS else _ROWS_PER_SEARCH_STEP)


def _search(wanted: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns which of `numbers`, [n], are in `wanted`, [m] ascending: [n] bool."""
    return wanted.take(np.searchsorted(wanted, numbers), mode="clip") == numbers


def _has_code(column: StringColumn | StringListColumn, wanted: np.ndarray) -> Comparison:
    """Returns the comparison of a column of strings with wanted codes: [n] int64."""
    if len(wanted) <= _FEW_CODES:
        few = wanted.tolist()

        def contains(codes: np.ndarray) -> np.ndarray:
            return _any_equal(codes, few)
    else:
        table = np.zeros(len(column.values) + 1, dtype=bool)  # by code; the last one is that of a missing value, -1
        table[wanted] = True

        def contains(codes: np.ndarray) -> np.ndarray:
            return table.take(codes, mode="wrap")

    if isinstance(column, StringColumn):
        return Comparison(lambda start, end: contains(column.codes[start:end]))

    def compare_lists(start: int, end: int) -> np.ndarray:
        bounds = column.offsets[start : end + 1]
        hits = contains(column.codes[bounds[0] : bounds[-1]])
        hits_before = np.zeros(len(hits) + 1, dtype=np.int32)
        np.cumsum(hits, out=hits_before[1:])
        return np.diff(hits_before.take(bounds - bounds[0])) > 0  # [rows]

    rows_per_step = _ROWS_PER_STEP * len(column.offsets) // max(1, len(column.codes) + len(column.offsets))
    return Comparison(compare_lists, max(8, rows_per_step - rows_per_step % 8))


def _any_equal(numbers: np.ndarray, few: Sequence[Any]) -> np.ndarray:
    """Returns which of `numbers`, [n], equal one of a few values: [n] bool."""
    if not few:
        return np.zeros(len(numbers), dtype=bool)
    hits = numbers == few[0]
    for value in few[1:]:
        hits |= numbers == value
    return hits


def _compare_range(column: Column, bounds: pb.Range, path: str) -> Comparison:
    """Returns the comparison of numbers with a range, both bounds included."""
    if not isinstance(column, IntColumn | FloatColumn):
        raise invalid(f"{path}.attribute", f"{bounds.attribute} is of type {column.type}, expected int or float")
    has_min, has_max = bounds.HasField("min"), bounds.HasField("max")
    has_min_int, has_max_int = bounds.HasField("min_int"), bounds.HasField("max_int")
    if not (has_min or has_max or has_min_int or has_max_int):
        raise invalid(path, "neither min nor max, expected at least one")
    if (has_min and has_min_int) or (has_max and has_max_int):
        name = "min" if has_min and has_min_int else "max"
        raise invalid(path, f"{name} and {name}_int, expected one of them")
    low = bounds.min if has_min else bounds.min_int if has_min_int else -math.inf
    high = bounds.max if has_max else bounds.max_int if has_max_int else math.inf
    if math.isnan(low) or math.isnan(high):
        raise invalid(path, "NaN, expected a number")
    numbers = column.numbers
    if isinstance(column, FloatColumn):
        # The nearest float64 inside of the range, where a whole number has none of its own.
        least = float(low) if float(low) >= low else math.nextafter(float(low), math.inf)
        most = float(high) if float(high) <= high else math.nextafter(float(high), -math.inf)
        return Comparison(lambda start, end: (numbers[start:end] >= least) & (numbers[start:end] <= most))
    # Compared as integers: int64 converted to float64 would be inexact beyond 2**53.
    smallest = _INT64.min if low <= _INT64.min else _INT64.max + 1 if low > _INT64.max else math.ceil(low)
    largest = _INT64.max if high >= _INT64.max else _INT64.min - 1 if high < _INT64.min else math.floor(high)
    if smallest > largest or smallest > _INT64.max or largest < _INT64.min:
        return Comparison(lambda start, end: np.zeros(end - start, dtype=bool))
    present = column.present
    return Comparison(
        lambda start, end: (numbers[start:end] >= smallest) & (numbers[start:end] <= largest) & present[start:end]
    )
