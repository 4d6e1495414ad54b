"""Infers from its cells how a column is read as an attribute, and whether it becomes a feature."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from trainer.data.cells import DECIMAL_COMMA, THOUSANDS_COMMA, to_numbers, written_lists
from trainer.drafting.column_content import DATE
from trainer.drafting.column_names import words_of

_NO_VALUE = frozenset(("N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "\\N"))
"""Cells that mean a missing value in any column."""
_NO_NUMBER = _NO_VALUE | {"NA", "None", "none", "-", "?", "unknown", "Unknown"}
"""Cells that mean a missing value among numbers; among texts they may be values, as the occupation ``none``."""
_CODES = frozenset(
    ("id", "code", "class", "type", "category", "group", "zip", "postcode", "plz", "brand", "department")
)
_TITLES = frozenset(
    ("title", "name", "description", "url", "link", "image", "text", "summary", "headline", "label", "titel", "bild")
)
_SEPARATORS = ("|", ";", ", ", ",", " ")
_FEW = 12
"""Largest number of distinct whole numbers that are treated as categories."""
_MANY = 50_000
"""Largest number of distinct values that are kept in a vocabulary; more values are hashed."""


@dataclass(frozen=True)
class ColumnType:
    """The inferred type of a column.

    Attributes:
        column: Name of the column.
        type: Type of the attribute, see `trainer.recipe.tables.Attribute`; None if the column is left out.
        keys: Further keys of the attribute: ``separator``, ``missing``.
        feature: Kind and further keys of the feature; empty if the attribute is for display and filters only.
        why: Short reason, for a comment in the recipe.
        doubt: Sentence with the alternative; empty if the type is certain.
    """

    column: str
    type: str | None
    keys: dict[str, Any] = field(default_factory=dict)
    feature: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    doubt: str = ""


def infer_type(series: pl.Series) -> ColumnType:
    """Returns the inferred type of a column of text cells, null where missing."""
    column, dtype = series.name, series.dtype
    present = series.drop_nulls()
    if isinstance(dtype, pl.List):
        if dtype.inner.is_nested():
            return ColumnType(column, None, why="nested lists", doubt=f"{column!r} holds nested lists and is left out.")
        return _list(column, present.cast(pl.List(pl.String)), {})
    if isinstance(dtype, pl.Struct):
        return ColumnType(column, None, why="nested", doubt=f"{column!r} is nested and is left out.")
    if dtype.is_temporal():
        why = f"{column!r} holds dates, which no feature reads: left out. Its year or age as a number would do."
        return ColumnType(column, None, why="dates", doubt=why)
    missing: tuple[str, ...] = ()
    if dtype in (pl.String, pl.Categorical, pl.Boolean) or isinstance(dtype, pl.Enum):
        present = present.cast(pl.String)
        missing = tuple(sorted(set(present.unique()) & _NO_VALUE))
        present = present.filter(~present.is_in(missing))
    if present.is_empty():
        return ColumnType(column, None, why="empty", doubt=f"{column!r} has no value in any row and is left out.")
    if present.dtype != pl.String:
        return _number(column, present.cast(pl.Float64), missing)
    if (lists := written_lists(present)) is not None:
        return replace(_list(column, lists, _keys(missing)), doubt=f"{column!r}: cells are read as lists.")
    notes: list[str] = []
    numbers = to_numbers(present, lambda what, example: notes.append(f"{what}, as in {example!r}"))
    bad = numbers.is_null() | numbers.is_infinite()
    odd = set(present.filter(bad).unique()) - _NO_NUMBER
    has_zeros = present.str.contains(r"^0\d").any()  # an article number or a postcode, in which 007 is not 7
    is_odd = present.is_in(sorted(odd))
    if not has_zeros and len(odd) <= 3 and is_odd.sum() <= 0.02 * len(present) and not bad.all():
        missing = tuple(sorted({*missing, *present.filter(bad).unique()}))
        inferred = _number(column, numbers.filter(~bad), missing)
        proven = [note for note in notes if note.startswith((DECIMAL_COMMA, THOUSANDS_COMMA))]
        notes = [note for note in notes if note not in proven]
        if any(note.startswith(DECIMAL_COMMA) for note in proven):
            inferred = replace(inferred, keys={**inferred.keys, "decimal": ","})
        inferred = replace(inferred, why="; ".join([inferred.why, *proven]))
        if odd:
            notes.append(f"holds numbers but for {', '.join(map(repr, sorted(odd)))}, which count as missing")
        return replace(inferred, doubt=" ".join([inferred.doubt, *(f"{column!r}: {note}." for note in notes)]).strip())
    return _text(column, present, _keys(missing))


def _keys(missing: tuple[str, ...]) -> dict[str, Any]:
    return {"missing": list(missing)} if missing else {}


def _number(column: str, numbers: pl.Series, missing: tuple[str, ...]) -> ColumnType:
    keys, distinct = _keys(missing), numbers.n_unique()
    whole = bool(((numbers % 1) == 0).all())
    kind = "int" if whole else "float"
    if distinct == 1:
        return ColumnType(column, kind, keys, {}, "the same in every row, so no feature")
    is_code = bool(_CODES & set(words_of(column)))
    if whole and (is_code or distinct <= _FEW):
        feature = _categorical(distinct)
        if is_code:
            return ColumnType(
                column, "int", keys, feature, f"{distinct:,} values; its name says a code, not a quantity"
            )
        doubt = f"{column!r} has {distinct} whole numbers, treated as categories; kind numeric if it is a quantity."
        return ColumnType(column, "int", keys, feature, f"{distinct} values", doubt)
    return ColumnType(column, kind, keys, {"kind": "numeric"}, f"{numbers.min():g} to {numbers.max():g}")


def _text(column: str, present: pl.Series, keys: dict[str, Any]) -> ColumnType:
    distinct, count = present.n_unique(), len(present)
    is_title = bool(_TITLES & set(words_of(column))) and distinct > 0.2 * count
    for separator in ("|",) if is_title else _SEPARATORS:
        if _is_list(present, separator):
            inferred = _list(column, present.str.split(separator), {**keys, "separator": separator})
            if separator in ("|", ";"):
                return inferred
            doubt = (
                f"{column!r} is split at {separator!r}; type string and kind categorical if its cells are one value."
            )
            return replace(inferred, doubt=doubt)
    if distinct == 1:
        return ColumnType(column, "string", keys, {}, "the same in every row, so no feature")
    words = float(present.str.count_matches(r"\s+").mean() or 0) + 1  # type: ignore[arg-type]
    if is_title or distinct > 0.5 * count or (words > 5 and distinct > 100):
        if not is_title and present.str.contains(DATE).mean() > 0.9:  # type: ignore[operator]
            doubt = f"{column!r} holds dates, which no feature reads. Its year or age as a number would do."
            return ColumnType(column, "string", keys, {}, "for display: dates", doubt)
        doubt = ""
        if not is_title and words < 3:
            doubt = (
                f"{column!r} has {distinct:,} values in {count:,} rows: too many to learn from, so no "
                "feature; add one of kind categorical with min_count if they repeat."
            )
        return ColumnType(column, "string", keys, {}, f"for display: {distinct:,} values in {count:,} rows", doubt)
    return ColumnType(column, "string", keys, _categorical(distinct), f"{distinct:,} values")


def _is_list(present: pl.Series, separator: str) -> bool:
    """Returns whether cells are lists: many have several parts, and the parts repeat more often than the cells."""
    split = present.str.split(separator)
    lengths = split.list.len()
    if (lengths > 1).mean() < (0.05 if separator in ("|", ";") else 0.2):  # type: ignore[operator]
        return False
    parts = split.explode().str.strip_chars()
    distinct = parts.n_unique()
    if (parts.str.len_chars() > 30).mean() > 0.1:  # type: ignore[operator]
        return False  # texts with punctuation
    if separator == "|":
        return len(parts) >= 1.5 * distinct
    return distinct < present.n_unique() and len(parts) >= (3 if separator == ";" else 10) * distinct


def _list(column: str, lists: pl.Series, keys: dict[str, Any]) -> ColumnType:
    counts = Counter(part.strip() for cell in lists.to_list() for part in cell if part and part.strip())
    lengths = lists.list.len()
    most = int(lengths.max()) if len(lengths) else 1  # type: ignore[arg-type]
    kept = most if most <= 10 else max(10, math.ceil(float(lengths.quantile(0.95) or 1)))
    feature = {"kind": "multi_categorical", "max_values": max(1, min(kept, 50)), **_slots(max(len(counts), 1))}
    return ColumnType(column, "string_list", keys, feature, f"lists of {len(counts):,} values, at most {most} a row")


def _categorical(distinct: int) -> dict[str, Any]:
    return {"kind": "categorical", **_slots(distinct)}


def _slots(distinct: int) -> dict[str, Any]:
    """Returns the recipe keys of a categorical feature: embedding size, and hash buckets if there are many values.

    `distinct` is the number of distinct values.
    """
    dimension = min(32, max(2, 2 ** round(math.log2(distinct) / 2)))
    if distinct > _MANY:
        return {"embedding_dim": dimension, "hash_buckets": 2 ** math.floor(math.log2(distinct))}
    return {"embedding_dim": dimension, **({"min_count": 2} if distinct > 100 else {})}
