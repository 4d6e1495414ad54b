"""Tables from CSV or Parquet, with every bad cell named by file, column and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from trainer.errors import DataError

_SHOWN = 3
"""Bad cells named in one message."""

_FIRST_LINE = 2
"""Of a CSV, that holds data; rows of files without a header line count from 1."""
JSON_ID, JSON_VALUES = "id", "values"
"""Columns of a JSON mapping: its keys, and the lists that they map to, where these are no objects."""


class Table:
    """The columns of one file: CSV, ``.parquet`` or a mapping in ``.json``; text until asked for in a type.

    A null and an empty cell are missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",", quote: str = '"') -> None:
        """Reads the named columns.

        Raises:
            DataError: the file cannot be read, a line has too many or too few cells, or a column is absent.
        """
        self.path = path
        self._is_csv = path.suffix not in (".parquet", ".json")
        if not path.is_file():
            raise DataError(f"{path}: no such file; name the folder that holds it with --data")
        wanted = list(dict.fromkeys(columns))
        try:
            whole = read_json(path) if path.suffix == ".json" else None
            if whole is not None:
                names = whole.columns
            elif self._is_csv:
                names = self._header(separator, quote)
            else:
                names = list(pl.read_parquet_schema(path))
            absent = [name for name in wanted if name not in names]
            if absent:
                raise DataError(f"{path}: no column {', '.join(map(repr, absent))}; its columns are {names}")
            if whole is not None:
                self.frame = whole.select(wanted)
            elif self._is_csv:
                self._refuse_ragged(separator, quote)
                self.frame = pl.read_csv(
                    path, columns=wanted, separator=separator, quote_char=quote or None, infer_schema=False
                )
            else:
                self.frame = pl.read_parquet(path, columns=wanted)
        except (pl.exceptions.PolarsError, OSError, UnicodeError, csv.Error) as error:
            raise DataError(self._explain(error)) from error
        self.frame = self.frame.with_columns(pl.col(pl.String).replace("", None))  # a quoted empty cell is empty too
        if self.frame.is_empty():
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        """Rows."""
        return self.frame.height

    def strings(self, column: str, *, required: bool = False) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: a cell is missing, where `required`.
        """
        series = self._cast(column, pl.String)
        if required and series.null_count():
            self._refuse(column, series.is_null(), "where every row needs a value; fill it in or remove the row")
        return series

    def floats(self, column: str, *, required: bool = False) -> pl.Series:
        """Returns a column as Float64, finite where present.

        Raises:
            DataError: a cell is no finite number, or is missing where `required`.
        """
        series = self._cast(column, pl.Float64)
        bad = (series.is_null() & self.frame[column].is_not_null()) | series.is_nan() | series.is_infinite()
        self._refuse(
            column,
            bad.fill_null(value=False),
            "is no finite number; mend it (12.5, with a point and without a unit), leave it empty, or list it as "
            "missing in the recipe",
        )
        if required:
            self._refuse(column, series.is_null(), "where every row needs a number; fill it in or remove the row")
        return series

    def ints(self, column: str) -> pl.Series:
        """Returns a column as Int64.

        Raises:
            DataError: a cell is no whole number.
        """
        floats = self.floats(column)
        series = self.frame[column].cast(pl.Int64, strict=False)
        # "1995.0" is a whole number too: what wrote the file may have known only floats.
        series = series.fill_null(floats.cast(pl.Int64, strict=False))
        bad = ((series.cast(pl.Float64) - floats).abs() > 0) | (series.is_null() & floats.is_not_null())
        self._refuse(
            column, bad.fill_null(value=False), "is no whole number; mend it, or give the attribute type float"
        )
        return series

    def choices(self, column: str, allowed: Sequence[str]) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: a cell is missing, or none of `allowed`.
        """
        series = self.strings(column, required=True)
        self._refuse(column, ~series.is_in(allowed), f"is none of {', '.join(allowed)}; mend it or remove the row")
        return series

    def string_lists(self, column: str, separator: str) -> pl.Series:
        """Returns a column as lists of text: cells split at `separator`, blanks around values dropped."""
        raw = self.frame[column]
        is_list = isinstance(raw.dtype, pl.List)
        lists = self._cast(column, pl.List(pl.String)) if is_list else self.strings(column).str.split(separator)
        stripped = lists.list.eval(pl.element().str.strip_chars())
        return stripped.list.eval(pl.element().filter(pl.element() != ""))  # drops nulls too

    def mark_missing(self, column: str, cells: Sequence[str]) -> None:
        """Makes the cells of a column that read one of `cells` missing."""
        marked = pl.when(pl.col(column).cast(pl.String).is_in(cells)).then(None).otherwise(pl.col(column))
        self.frame = self.frame.with_columns(marked.alias(column))

    def times(self, column: str) -> pl.Series:
        """Returns a column of times as Float64 seconds since 1970.

        Raises:
            DataError: a cell is missing, or neither a number nor a date and time.
        """
        raw = self.frame[column]
        if raw.dtype == pl.Date:
            raw = raw.cast(pl.Datetime("us"))
        if isinstance(raw.dtype, pl.Datetime):
            series = raw.dt.epoch("us").cast(pl.Float64) / 1e6
        elif raw.dtype == pl.String and raw.drop_nulls().head(1).cast(pl.Float64, strict=False).null_count():
            try:
                series = raw.str.to_datetime(strict=False, time_unit="us").dt.epoch("us").cast(pl.Float64) / 1e6
            except pl.exceptions.ComputeError:  # the first one looks like no date at all
                series = pl.Series(column, [None] * len(raw), dtype=pl.Float64)
        else:
            series = self._cast(column, pl.Float64)
        bad = (series.is_null() | series.is_nan() | series.is_infinite()).fill_null(value=True)
        self._refuse(
            column, bad, "is no time; write seconds since 1970 or 2026-11-24T03:16:45, the same way in every row"
        )
        return series

    def refuse_duplicates(self, column: str) -> None:
        """Raises where two rows have the same id.

        Raises:
            DataError: names them.
        """
        series = self.frame[column]
        self._refuse(column, series.is_duplicated() & series.is_not_null(), "stands in several rows; keep one of them")

    def _refuse(self, column: str, bad: pl.Series, what: str) -> None:
        rows = bad.arg_true().to_list()
        if not rows:
            return
        first, unit = (_FIRST_LINE, "line") if self._is_csv else (1, "row")
        shown = ", ".join(f"{unit} {row + first}: {_show(self.frame[column][row])}" for row in rows[:_SHOWN])
        more = f" (and {len(rows) - _SHOWN} more)" if len(rows) > _SHOWN else ""
        raise DataError(f"{self.path}, column {column!r}: {shown}{more} {what}")

    def _header(self, separator: str, quote: str) -> list[str]:
        return next(read_rows(self.path, separator, quote), [])

    def _refuse_ragged(self, separator: str, quote: str) -> None:
        """Raises where a line has too many or too few cells: the parser drops or fills in what it does not expect."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = _reader(file, separator, quote)
            expected = len(next(reader, []))
            for cells in reader:
                if cells and len(cells) != expected:
                    raise DataError(
                        f"{self.path}, line {reader.line_num}: {len(cells)} cells, the header has {expected}; "
                        "mend the line (a separator inside a value has to be quoted)"
                    )

    def _cast(self, column: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
        """Returns a column in another type, null where a cell cannot be."""
        raw = self.frame[column]
        try:
            return raw.cast(dtype, strict=False)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{self.path}, column {column!r}: its type {raw.dtype} cannot be read here; write it as text or "
                "numbers, or give the attribute type string_list where it holds lists"
            ) from error

    def _explain(self, error: Exception) -> str:
        if isinstance(error, UnicodeError):
            return f"{self.path}: not UTF-8 text: {error}; save it as UTF-8"
        cause = str(error).splitlines()[0]
        return f"{self.path}: cannot be read: {cause}; check its separator and quotes, or save it anew"


def _show(cell: object) -> str:
    return "an empty cell" if cell is None else repr(cell)


def read_rows(path: Path, separator: str, quote: str) -> Iterator[list[str]]:
    """Yields the rows of a CSV as cells, from the header on.

    Raises:
        OSError, UnicodeError, csv.Error: it cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _reader(file, separator, quote)


def _reader(file: object, separator: str, quote: str):
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return csv.reader(file, delimiter=separator, quotechar=quote or None, quoting=quoting)  # type: ignore[arg-type]


class _Object(tuple[tuple[str, Any], ...]):
    """A JSON object as pairs: a dict would hide that a key stands there twice."""


def read_json(path: Path) -> pl.DataFrame:
    """Returns a row for each key of a JSON mapping, all text or lists of text.

    Raises:
        DataError: the file is no JSON, or no mapping of ids to lists or objects.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON: {error}; save it anew") from error
    if not isinstance(raw, _Object):
        raise DataError(f"{path}: expected a mapping of ids, {{id: [value, ...]}} or {{id: {{column: value}}}}")
    columns: dict[str, list[Any]] = {JSON_ID: [key for key, _ in raw]}
    for row, (key, entry) in enumerate(raw):
        if not isinstance(entry, list | _Object):
            raise DataError(f"{path}, id {key!r}: {_show(entry)} is neither a list nor an object of attributes")
        for name, value in entry if isinstance(entry, _Object) else [(JSON_VALUES, entry)]:
            if name == JSON_ID:
                raise DataError(
                    f"{path}, id {key!r}: an attribute {JSON_ID!r} beside the key, which is the id; rename it"
                )
            columns.setdefault(name, [None] * len(raw))[row] = _json_cell(value, path, key, name)
    return pl.DataFrame([pl.Series(name, _as_lists(cells)) for name, cells in columns.items()])


def _as_lists(cells: list[Any]) -> list[Any]:
    """Returns the cells of a column: where one is a list, all are."""
    if not any(isinstance(cell, list) for cell in cells):
        return cells
    return [[cell] if isinstance(cell, str) else cell for cell in cells]


def _json_cell(value: Any, path: Path, key: str, name: str) -> str | list[str] | None:
    if isinstance(value, list) and not any(isinstance(single, list | _Object) for single in value):
        return [_json_text(single) for single in value if single is not None]
    if isinstance(value, list | _Object):
        raise DataError(
            f"{path}, id {key!r}, attribute {name!r}: is nested; a value is text, a number or a list of them"
        )
    return None if value is None else _json_text(value)


def _json_text(value: str | float | bool) -> str:
    return value if isinstance(value, str) else json.dumps(value)
