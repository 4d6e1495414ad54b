"""Typed columns of tables in CSV, Parquet or JSON. Errors name file, column and row of bad cells."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from trainer.data.table_files import is_csv, read_json, read_rows, refuse_ragged, show
from trainer.errors import DataError

_SHOWN = 3
"""Largest number of bad cells that one message names."""

_FIRST_LINE = 2
"""Number of the first line of a CSV that holds data, after the header."""


class Table:
    """The columns of one table: a CSV, a ``.parquet`` file, or a mapping in ``.json``.

    A folder whose name ends in ``.parquet`` is one table too: its ``.parquet`` files in order of their names. Columns
    are text until a method converts them. Null and empty cells are missing.

    Attributes:
        path: Path of the file.
        first_row: Number of the first row in the file, from 0; above 0 for a later block.
        frame: Columns of the table, missing cells null.
    """

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",", quote: str = '"') -> None:
        """Reads the named columns.

        Raises:
            DataError: The file cannot be read, a line has too many or too few cells, or a column is absent.
        """
        with _explained(path):
            frame = _open(path, columns, separator, quote).collect()
        self._hold(path, frame, 0)

    @staticmethod
    def blocks(path: Path, columns: Sequence[str], separator: str, quote: str, rows: int) -> Iterator[Table]:
        """Yields the table in blocks of about `rows` rows, in order; the file may be larger than memory.

        Raises:
            DataError: As for the constructor; raised at the block that holds the bad cells.
        """
        with _explained(path):
            batches = iter(_open(path, columns, separator, quote).collect_batches(chunk_size=rows, maintain_order=True))
        first_row = 0
        while True:
            with _explained(path):
                frame = next((batch for batch in batches if batch.height), None)
            if frame is None and first_row:
                return
            table = Table.__new__(Table)
            table._hold(path, pl.DataFrame() if frame is None else frame, first_row)
            first_row += len(table)
            yield table

    def _hold(self, path: Path, frame: pl.DataFrame, first_row: int) -> None:
        self.path, self.first_row = path, first_row
        self._is_csv = is_csv(path)
        self.frame = frame.with_columns(pl.col(pl.String).replace("", None))  # a quoted empty cell is empty too
        if self.frame.is_empty():
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        """Number of rows."""
        return self.frame.height

    def strings(self, column: str, *, required: bool = False) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: A cell is missing, and `required` is set.
        """
        series = self._cast(column, pl.String)
        if required and series.null_count():
            self._refuse(column, series.is_null(), "where every row needs a value; fill it in or remove the row")
        return series

    def floats(self, column: str, *, required: bool = False) -> pl.Series:
        """Returns a column as Float64, finite where present.

        Raises:
            DataError: A cell is not a finite number, or is missing and `required` is set.
        """
        series = self._cast(column, pl.Float64)
        bad = (series.is_null() & self.frame[column].is_not_null()) | series.is_nan() | series.is_infinite()
        self._refuse(
            column,
            bad.fill_null(value=False),
            "is not a finite number; mend it (12.5, with a point and without a unit), leave it empty, or list it as "
            "missing in the recipe",
        )
        if required:
            self._refuse(column, series.is_null(), "where every row needs a number; fill it in or remove the row")
        return series

    def ints(self, column: str) -> pl.Series:
        """Returns a column as Int64.

        Raises:
            DataError: A cell is not a whole number.
        """
        floats = self.floats(column)
        series = self.frame[column].cast(pl.Int64, strict=False)
        # "1995.0" is a whole number too: some programs write every number as a float.
        series = series.fill_null(floats.cast(pl.Int64, strict=False))
        bad = ((series.cast(pl.Float64) - floats).abs() > 0) | (series.is_null() & floats.is_not_null())
        self._refuse(
            column, bad.fill_null(value=False), "is not a whole number; mend it, or give the attribute type float"
        )
        return series

    def choices(self, column: str, allowed: Sequence[str]) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: A cell is missing, or is not one of `allowed`.
        """
        series = self.strings(column, required=True)
        self._refuse(column, ~series.is_in(allowed), f"is not one of {', '.join(allowed)}; mend it or remove the row")
        return series

    def string_lists(self, column: str, separator: str) -> pl.Series:
        """Returns a column as lists of text: cells split at `separator`, blanks stripped, empty values left out."""
        raw = self.frame[column]
        is_list = isinstance(raw.dtype, pl.List)
        lists = self._cast(column, pl.List(pl.String)) if is_list else self.strings(column).str.split(separator)
        stripped = lists.list.eval(pl.element().str.strip_chars())
        return stripped.list.eval(pl.element().filter(pl.element() != ""))  # drops nulls too

    def mark_missing(self, column: str, cells: Sequence[str]) -> None:
        """Marks the cells of a column as missing if their text is one of `cells`."""
        marked = pl.when(pl.col(column).cast(pl.String).is_in(cells)).then(None).otherwise(pl.col(column))
        self.frame = self.frame.with_columns(marked.alias(column))

    def times(self, column: str) -> pl.Series:
        """Returns a column of times as Float64 seconds since 1970.

        Raises:
            DataError: A cell is missing, or is neither a number nor a date and time.
        """
        raw = self.frame[column]
        if raw.dtype == pl.Date:
            raw = raw.cast(pl.Datetime("us"))
        if isinstance(raw.dtype, pl.Datetime):
            series = raw.dt.epoch("us").cast(pl.Float64) / 1e6
        elif raw.dtype == pl.String and raw.drop_nulls().head(1).cast(pl.Float64, strict=False).null_count():
            try:
                series = raw.str.to_datetime(strict=False, time_unit="us").dt.epoch("us").cast(pl.Float64) / 1e6
            except pl.exceptions.ComputeError:  # the first cell is in no known form of a date
                series = pl.Series(column, [None] * len(raw), dtype=pl.Float64)
        else:
            series = self._cast(column, pl.Float64)
        bad = (series.is_null() | series.is_nan() | series.is_infinite()).fill_null(value=True)
        self._refuse(
            column, bad, "is not a time; write seconds since 1970 or 2026-11-24T03:16:45, the same way in every row"
        )
        return series

    def refuse_duplicates(self, column: str) -> None:
        """Checks that no two rows of a column have the same id.

        Raises:
            DataError: Two rows have the same id; the message names them.
        """
        series = self.frame[column]
        self._refuse(column, series.is_duplicated() & series.is_not_null(), "is in several rows; keep one of them")

    def _refuse(self, column: str, bad: pl.Series, what: str) -> None:
        rows = bad.arg_true().to_list()
        if not rows:
            return
        first, unit = (_FIRST_LINE, "line") if self._is_csv else (1, "row")
        first += self.first_row
        shown = ", ".join(f"{unit} {row + first}: {show(self.frame[column][row])}" for row in rows[:_SHOWN])
        more = f" (and {len(rows) - _SHOWN} more)" if len(rows) > _SHOWN else ""
        raise DataError(f"{self.path}, column {column!r}: {shown}{more} {what}")

    def _cast(self, column: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
        """Returns a column in another type, null where a cell cannot be converted."""
        raw = self.frame[column]
        try:
            return raw.cast(dtype, strict=False)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{self.path}, column {column!r}: its type {raw.dtype} cannot be read here; write it as text or "
                "numbers, or give the attribute type string_list where it holds lists"
            ) from error


def _open(path: Path, columns: Sequence[str], separator: str, quote: str) -> pl.LazyFrame:
    """Returns the named columns of a table file as a lazy frame, after checking that they exist."""
    if not path.is_file() and not (path.suffix == ".parquet" and path.is_dir()):
        raise DataError(f"{path}: no such file; name the folder that holds it with --data")
    wanted = list(dict.fromkeys(columns))
    whole = read_json(path) if path.suffix == ".json" else None
    if whole is not None:
        names = whole.columns
    elif is_csv(path):
        names = next(read_rows(path, separator, quote), [])
    else:
        names = pl.scan_parquet(_parts(path)).collect_schema().names()
    absent = [name for name in wanted if name not in names]
    if absent:
        hint = (
            f", if {separator!r} separates them: see `separator` in the recipe"
            if len(names) == 1 and is_csv(path)
            else ""
        )
        raise DataError(f"{path}: no column {', '.join(map(repr, absent))}; its columns are {names}{hint}")
    if whole is not None:
        return whole.lazy().select(wanted)
    if not is_csv(path):
        return pl.scan_parquet(_parts(path)).select(wanted)
    refuse_ragged(path, separator, quote)
    return pl.scan_csv(path, separator=separator, quote_char=quote or None, infer_schema=False).select(wanted)


def _parts(path: Path) -> list[Path]:
    """Returns the files of a Parquet table: the file itself, or those of the folder in order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without a *.parquet file; name the file, or the folder that holds its parts")
    return files


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}; save it as UTF-8") from error
    except (pl.exceptions.PolarsError, OSError, csv.Error) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read: {cause}; check its separator and quotes, or save it anew") from error
