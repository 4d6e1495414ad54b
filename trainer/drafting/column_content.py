"""Judges by its cells what a column may be: an id, a time, or numbers."""

from __future__ import annotations

import polars as pl

from trainer.data.cells import to_numbers
from trainer.drafting.column_names import names_id, names_role

DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]|$)"
"""Pattern of a date at the start of a cell, in any order of its parts."""
_MOST_MISSING = 0.5
"""Largest share of empty cells of a column that is named as an id."""


def may_be_id(series: pl.Series, is_known: bool = False) -> bool:
    """Returns whether a column may hold ids: of a plain type, with more than one value, and complete.

    A column whose name says that it holds users or items may have empty cells, and so may one whose values are ids of
    a users or items table (`is_known`).
    """
    if isinstance(series.dtype, pl.List | pl.Struct) or series.dtype.is_temporal() or series.dtype == pl.Boolean:
        return False
    is_named = names_role(series.name, "user") or names_role(series.name, "item")
    most_missing = _MOST_MISSING * len(series) if is_named or is_known else 0
    return series.null_count() <= most_missing and series.drop_nulls().n_unique() > 1


def id_score(series: pl.Series) -> float:
    """Returns a score of the cells as ids: below 0 for long texts, fractions, dates and few values."""
    series = series.drop_nulls()
    score, distinct = 0.0, series.n_unique()
    if distinct == len(series) and distinct > 10:  # such as an order number
        score -= 2.0
    if distinct <= 10 < len(series) / 10:
        score -= 2.0
    if series.dtype == pl.String:
        sample = series.head(1000)
        if (sample.str.len_chars().mean() or 0) > 60:  # type: ignore[operator]
            score -= 4.0
        if sample.str.contains(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}").mean() > 0.9:  # type: ignore[operator]
            score -= 4.0
    numbers = numbers_of(series)
    if numbers is not None and bool(((numbers % 1) != 0).any()):
        score -= 4.0
    if numbers is not None and is_epoch(numbers):
        score -= 3.0
    return score + 0.5 * names_id(series.name)


def time_score(series: pl.Series) -> float:
    """Returns a score of a column as the time: at least 3 if it may be one."""
    named = 3.0 * names_role(series.name, "time")
    if series.dtype in (pl.Date, pl.Datetime) or isinstance(series.dtype, pl.Datetime):
        return named + 4.0
    numbers = numbers_of(series)
    if numbers is not None:
        return (
            named + 3.0
            if is_epoch(numbers)
            else named - 0.5 * (names_role(series.name, "amount") or numbers.n_unique() < 10)
        )
    if series.dtype != pl.String:
        return 0.0
    dates = series.drop_nulls().head(1000).str.contains(DATE).mean()
    return named + 3.0 if (dates or 0) > 0.9 else 0.0  # type: ignore[operator]


def is_epoch(numbers: pl.Series) -> bool:
    """Returns whether numbers may be times since 1970, in seconds (from 1973 on) or a smaller unit."""
    middle = numbers.median()
    return isinstance(middle, float) and 1e8 < middle < 3e18 and numbers.n_unique() > 1


def numbers_of(series: pl.Series) -> pl.Series | None:
    """Returns the present cells of a column as numbers; None if a cell is not a number."""
    if series.dtype != pl.String and not series.dtype.is_numeric():
        return None
    numbers = to_numbers(series, lambda what, example: None) if series.dtype == pl.String else series.cast(pl.Float64)
    return numbers.drop_nulls() if numbers.null_count() == series.null_count() < len(series) else None


def floor_of(series: pl.Series) -> float | None:
    """Returns the smallest number of a column; None if it is not a column of numbers."""
    numbers = numbers_of(series)
    return None if numbers is None or numbers.null_count() else numbers.min()  # type: ignore[return-value]
