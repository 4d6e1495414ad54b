"""Tables from CSV or Parquet, with every bad cell named by file, column and row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from trainer.errors import DataError

_SHOWN = 3
"""Bad cells named in one message."""

# A CSV's first row of data stands in line 2; a Parquet file has no header line.
_FIRST_ROW = {True: 1, False: 2}


class Table:
    """The columns of one file, as text until they are asked for in a type.

    A null and an empty cell are missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",", quote: str = '"') -> None:
        """Reads the named columns.

        Raises:
            DataError: the file cannot be read, a line has too many or too few cells, or a column is absent.
        """
        self.path = path
        self._is_parquet = path.suffix == ".parquet"
        if not path.is_file():
            raise DataError(f"{path}: no such file; name the folder that holds it with --data")
        wanted = list(dict.fromkeys(columns))
        try:
            names = list(pl.read_parquet_schema(path)) if self._is_parquet else self._header(separator, quote)
            absent = [name for name in wanted if name not in names]
            if absent:
                raise DataError(f"{path}: no column {', '.join(map(repr, absent))}; its columns are {names}")
            if self._is_parquet:
                self.frame = pl.read_parquet(path, columns=wanted)
            else:
                self._refuse_ragged(separator, quote)
                self.frame = pl.read_csv(
                    path, columns=wanted, separator=separator, quote_char=quote or None, infer_schema=False
                )
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
            "is no finite number; mend it, leave it empty, or list it as missing in the recipe",
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
        first = _FIRST_ROW[self._is_parquet]
        unit = "row" if self._is_parquet else "line"
        shown = ", ".join(f"{unit} {row + first}: {_show(self.frame[column][row])}" for row in rows[:_SHOWN])
        more = f" (and {len(rows) - _SHOWN} more)" if len(rows) > _SHOWN else ""
        raise DataError(f"{self.path}, column {column!r}: {shown}{more} {what}")

    def _header(self, separator: str, quote: str) -> list[str]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            return next(_reader(file, separator, quote), [])

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


def _reader(file: object, separator: str, quote: str):
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return csv.reader(file, delimiter=separator, quotechar=quote or None, quoting=quoting)  # type: ignore[arg-type]
