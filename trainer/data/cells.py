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
DECIMAL_COMMA, THOUSANDS_COMMA = "a comma is the decimal separator", "a comma separates thousands"
"""Notes of `to_numbers`, which makes them only where cells such as ``24,90`` or ``1,024.90`` prove them."""
_LARGEST_EXACT = 2.0**53
_WHOLE_IDS = "ids that are floating-point numbers are read as whole numbers"
_TIME_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
"""Smallest time in a unit, its factor to seconds, and its name: 1e11 s would be the year 5138."""

Note = Callable[[str, object], None]
"""Receives what was read other than it was written, and a cell as an example, for the person who trains."""


def to_numbers(text: pl.Series, note: Note, decimal: str = "") -> pl.Series:
    """Returns text as Float64, null where it is no number.

    A unit of money around a number is left out. A comma is the decimal separator, or separates thousands, if that is
    certain for the column: ``24,90`` and ``1.024,90``, or ``1,024.90``. ``1,024`` alone is neither.

    Args:
        text: Cells.
        note: Receives what was read other than it was written.
        decimal: Decimal separator: ``,`` or ``.``; the other one may separate thousands. Default: told by the cells.
    """
    if decimal:
        return _grouped_numbers(_without_units(text), "." if decimal == "," else ",", decimal)
    numbers = text.cast(pl.Float64, strict=False)
    left = numbers.is_null() & text.is_not_null()
    if not left.any():
        return numbers
    bare = _without_units(text)
    numbers = bare.cast(pl.Float64, strict=False)
    if (read := left & numbers.is_not_null()).any():
        note("numbers are read without unit and blanks", text.filter(read)[0])
    rest = bare.filter(numbers.is_null() & bare.is_not_null())
    is_decimal, is_thousands = rest.str.contains(_DECIMAL_COMMA), rest.str.contains(_THOUSANDS_COMMA)
    if (is_decimal & ~is_thousands).any() and not (is_thousands & ~is_decimal).any():
        if bare.filter(numbers.is_not_null()).str.contains(_POINT_FRACTION).any():
            return numbers  # both a comma and a point as the decimal separator: one of them is a slip
        note(DECIMAL_COMMA, rest.filter(is_decimal & ~is_thousands)[0])
        return _grouped_numbers(bare, ".", ",")
    if (is_thousands & ~is_decimal).any() and not (is_decimal & ~is_thousands).any():
        note(THOUSANDS_COMMA, rest.filter(is_thousands & ~is_decimal)[0])
        return _grouped_numbers(bare, ",", ".")
    return numbers


def why_not_numbers(text: pl.Series, bad: pl.Series) -> tuple[pl.Series, str]:
    """Returns which cells of a column to mend, [n] bool, and why, after `to_numbers` could not read the `bad` ones.

    These are the few cells that contradict the others, or those that mean two numbers; none if it is neither.
    """
    bare = _without_units(text)
    decimal = bare.str.contains(_DECIMAL_COMMA).fill_null(value=False)
    thousands = bare.str.contains(_THOUSANDS_COMMA).fill_null(value=False)
    points = bare.str.contains(_POINT_FRACTION).fill_null(value=False)
    advice = "; write all cells of the column with the same separators"
    commas = decimal & ~thousands
    if commas.any() and points.any() and commas.sum() != points.sum():
        fewer = points if points.sum() < commas.sum() else commas
        return fewer, f"has another decimal separator than most cells{advice}"
    if (decimal & thousands & bad).any():
        return decimal & thousands & bad, f"may have a comma before decimals or between thousands{advice}"
    return pl.zeros(len(text), dtype=pl.Boolean, eager=True), ""


def _without_units(text: pl.Series) -> pl.Series:
    return text.str.strip_chars().str.replace(rf"^{_UNITS}\s*", "").str.replace(rf"\s*{_UNITS}$", "")


def _grouped_numbers(text: pl.Series, group: str, point: str) -> pl.Series:
    """Returns text with these separators of thousands and of decimals as Float64, null where it has another form."""
    has_form = text.str.contains(rf"^[+-]?(?:\d{{1,3}}(?:\{group}\d{{3}})+|\d+)(?:\{point}\d+)?$")
    plain = text.str.replace_all(group, "", literal=True).str.replace(point, ".", literal=True)
    numbers = plain.cast(pl.Float64, strict=False)
    return pl.select(pl.when(has_form).then(numbers)).to_series().alias(text.name)


def to_times(text: pl.Series) -> pl.Series:
    """Returns dates and times as Float64 seconds since 1970, null where the text is no time.

    Read are ``2026-11-24``, ``2026/11/24`` and ``24.11.2026``, alone or with ``03:16``, ``03:16:45`` or ``03:16:45.25``
    behind a blank (or a ``T`` in the first form), and then ``Z``, ``UTC`` or an offset such as ``+01:00``; else UTC.
    Other forms are read as polars infers them from the first cell.
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
        if (found := ((size >= least) & size.is_finite()).fill_null(value=False)).any():
            note(f"times of this size are read as {unit}", int(numbers.filter(found)[0]))
            numbers = pl.select(pl.when(found).then(numbers / factor).otherwise(numbers)).to_series()
            size = numbers.abs()
    return numbers


def to_lists(text: pl.Series, separator: str, note: Note) -> pl.Series:
    """Returns text as lists of text: split at a separator, or read as lists of JSON or Python if all cells are such."""
    lists = written_lists(text)
    if lists is None:
        return text.str.split(separator)
    note("cells are read as lists", text.drop_nulls()[0][:60])
    return lists


def written_lists(text: pl.Series) -> pl.Series | None:
    """Returns text as lists of text if all cells are lists as JSON or Python writes them, else None."""
    present = text.drop_nulls().str.strip_chars()
    if not len(present) or not (present.str.starts_with("[") & present.str.ends_with("]")).all():
        return None
    lists = [None if cell is None else _written_list(cell) for cell in text.to_list()]
    if any(cells is None for cells, cell in zip(lists, text, strict=True) if cell is not None):
        return None
    return pl.Series(text.name, lists, pl.List(pl.String))


def to_ids(raw: pl.Series, note: Note) -> pl.Series:
    """Returns ids as text: without blanks around them, and without the fraction of ids that a program made numbers.

    Raises:
        ValueError: Ids are numbers that are too large to be exact.
    """
    if raw.dtype in (pl.Float64, pl.Float32):
        raw = raw.fill_nan(None)
        present = raw.drop_nulls()
        if present.is_empty():
            return raw.cast(pl.String)
        if not (present == present.floor()).all():
            return raw.cast(pl.String)
        if (present.abs() >= _LARGEST_EXACT).any():
            raise ValueError("ids that are floating-point numbers and too large to be exact; export them as text")
        note(_WHOLE_IDS, present[0])
        return raw.cast(pl.Int64).cast(pl.String)
    ids = raw.cast(pl.String).str.strip_chars()
    if raw.dtype != pl.String:
        return ids
    if (ids != raw).any():
        note("blanks around ids are left out", raw.filter(ids != raw)[0])
    # Cell by cell: the blocks of a table, and the tables of a recipe, have to agree.
    floats = ids.filter(ids.str.contains(r"^-?\d+\.0$"))
    if len(floats):
        if (floats.cast(pl.Float64).abs() >= _LARGEST_EXACT).any():
            raise ValueError("ids that were floating-point numbers and too large to be exact; export them as text")
        note(_WHOLE_IDS, floats[0])
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
