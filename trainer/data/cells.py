"""Reads cells as other programs write them: numbers, times, lists and ids."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import polars as pl

_UNITS = r"(?:€|\$|£|EUR|USD|GBP|CHF)"
_DECIMAL_COMMA = r"^[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+$"
_THOUSANDS_COMMA = r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$"
_POINT_FRACTION = r"\.(?:\d{1,2}|\d{4,})$"
_TIME = r"^(.*\d:\d{2}(?::\d{2}(?:\.\d+)?)?) ?(Z|z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})$"
_TIME_FORMS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y")
_LARGEST_EXACT = 2.0**53
_TIME_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
"""Smallest time in a unit, its factor to seconds, and its name: 1e11 s would be the year 5138."""

Note = Callable[[str], None]
"""Receives what was read other than it was written, for the person who trains."""


def to_numbers(text: pl.Series, note: Note) -> pl.Series:
    """Returns text as Float64, null where it is no number.

    A unit of money around a number is left out. A comma is the decimal separator, or separates thousands, if that is
    certain for the column: ``24,90`` and ``1.024,90``, or ``1,024.90``. ``1,024`` alone is neither.
    """
    numbers = text.cast(pl.Float64, strict=False)
    left = numbers.is_null() & text.is_not_null()
    if not left.any():
        return numbers
    bare = text.str.strip_chars().str.replace(rf"^{_UNITS}\s*", "").str.replace(rf"\s*{_UNITS}$", "")
    numbers = bare.cast(pl.Float64, strict=False)
    if (read := left & numbers.is_not_null()).any():
        note(f"numbers with a unit or blanks, such as {text.filter(read)[0]!r}, are read without it")
    rest = bare.filter(numbers.is_null() & bare.is_not_null())
    decimal, thousands = rest.str.contains(_DECIMAL_COMMA), rest.str.contains(_THOUSANDS_COMMA)
    if (decimal & ~thousands).any() and not (thousands & ~decimal).any():
        if bare.filter(numbers.is_not_null()).str.contains(_POINT_FRACTION).any():
            return numbers  # both a comma and a point as the decimal separator: one of them is a slip
        note(f"a comma is the decimal separator, as in {rest.filter(decimal & ~thousands)[0]!r}")
        return _grouped_numbers(bare, ".", ",")
    if (thousands & ~decimal).any() and not (decimal & ~thousands).any():
        note(f"a comma separates thousands, as in {rest.filter(thousands & ~decimal)[0]!r}")
        return _grouped_numbers(bare, ",", ".")
    return numbers


def _grouped_numbers(text: pl.Series, group: str, point: str) -> pl.Series:
    """Returns text with these separators of thousands and of decimals as Float64, null where it has another form."""
    has_form = text.str.contains(rf"^[+-]?(?:\d{{1,3}}(?:\{group}\d{{3}})+|\d+)(?:\{point}\d+)?$")
    plain = text.str.replace_all(group, "", literal=True).str.replace(point, ".", literal=True)
    numbers = plain.cast(pl.Float64, strict=False)
    return pl.select(pl.when(has_form).then(numbers)).to_series().alias(text.name)


def to_times(text: pl.Series) -> pl.Series:
    """Returns dates and times, of any form of ISO 8601 or as ``24.11.2026 03:16``, as Float64 seconds since 1970.

    Times without a zone are in UTC. Null where the text is no time.
    """
    text = text.str.strip_chars()
    zone = text.str.extract(_TIME, 2)
    naive = pl.select(pl.coalesce(text.str.extract(_TIME, 1), text)).to_series()
    spaced = naive.str.replace(r"^(\d{4}-\d{2}-\d{2})[Tt]", "$1 ").str.replace(r"^(\d{4})/(\d{2})/(\d{2})", "$1-$2-$3")
    times = pl.Series([None] * len(text), dtype=pl.Datetime("us"))
    for form in _TIME_FORMS:  # mostly, the first one reads all
        if times.null_count() > text.null_count():
            read = spaced.str.to_datetime(form, strict=False, time_unit="us")
            times = pl.select(pl.coalesce(times, read)).to_series()
    if times.null_count() > text.null_count():
        try:
            inferred = naive.str.to_datetime(strict=False, time_unit="us")
        except pl.exceptions.ComputeError:  # the first cell is in no known form of a date
            inferred = pl.Series([None] * len(text), dtype=pl.Datetime("us"))
        times = pl.select(pl.coalesce(times, inferred)).to_series()
    hours = zone.str.extract(r"^([+-]\d{2})", 1).cast(pl.Float64, strict=False)
    minutes = zone.str.extract(r"^[+-]\d{2}:?(\d{2})$", 1).cast(pl.Float64, strict=False).fill_null(0.0)
    sign = pl.select(pl.when(zone.str.starts_with("-")).then(-1.0).otherwise(1.0)).to_series()
    offset = (hours * 3600 + sign * minutes * 60).fill_null(0.0)
    return times.dt.epoch("us").cast(pl.Float64) / 1e6 - offset


def to_seconds(numbers: pl.Series, note: Note) -> pl.Series:
    """Returns times in seconds since 1970; such that can only be milli-, micro- or nanoseconds are divided."""
    size = numbers.abs()
    for least, factor, unit in _TIME_UNITS:
        if (found := (size >= least).fill_null(value=False)).any():
            note(f"times as large as {numbers.filter(found)[0]:.0f} are read as {unit}")
            numbers = pl.select(pl.when(found).then(numbers / factor).otherwise(numbers)).to_series()
            size = numbers.abs()
    return numbers


def to_lists(text: pl.Series, separator: str, note: Note) -> pl.Series:
    """Returns text as lists of text: split at a separator, or read as lists of JSON or Python if all cells are such."""
    present = text.drop_nulls().str.strip_chars()
    if len(present) and (present.str.starts_with("[") & present.str.ends_with("]")).all():
        lists = [None if cell is None else _written_list(cell) for cell in text.to_list()]
        if all(cells is not None for cells, cell in zip(lists, text, strict=True) if cell is not None):
            note(f"cells such as {present[0][:60]!r} are read as lists")
            return pl.Series(text.name, lists, pl.List(pl.String))
    return text.str.split(separator)


def to_ids(raw: pl.Series, note: Note) -> pl.Series:
    """Returns ids as text: without blanks around them, and without the fraction of ids that a program made numbers.

    Raises:
        ValueError: Ids are numbers that are too large to be exact.
    """
    if raw.dtype in (pl.Float64, pl.Float32):
        present = raw.drop_nulls()
        if not (present == present.floor()).all():
            return raw.cast(pl.String)
        if (present.abs() >= _LARGEST_EXACT).any():
            raise ValueError("ids that are floating-point numbers and too large to be exact; export them as text")
        note(f"ids that are floating-point numbers, such as {present[0]!r}, are read as whole numbers")
        return raw.cast(pl.Int64).cast(pl.String)
    ids = raw.cast(pl.String).str.strip_chars()
    if raw.dtype != pl.String:
        return ids
    if (ids != raw).any():
        note(f"blanks around ids, such as {raw.filter(ids != raw)[0]!r}, are left out")
    # Cell by cell: the blocks of a table, and the tables of a recipe, have to agree.
    floats = ids.filter(ids.str.contains(r"^-?\d+\.0$"))
    if len(floats):
        if (floats.cast(pl.Float64).abs() >= _LARGEST_EXACT).any():
            raise ValueError("ids that were floating-point numbers and too large to be exact; export them as text")
        note(f"ids that were floating-point numbers, such as {floats[0]!r}, are read as whole numbers")
    return ids.str.replace(r"^(-?\d+)\.0$", "$1")


def _written_list(cell: str) -> list[str] | None:
    """Returns the values of a list that JSON or Python wrote; None if it is no list of single values."""
    value: Any = None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(value, list) or any(isinstance(each, list | dict | tuple) for each in value):
        return None
    return [str(each) for each in value if each is not None]
