"""Typed columns of tables in CSV, Parquet or JSON. Errors name file, column and row of bad cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from trainer.data.cells import Note, to_ids, to_lists, to_numbers, to_seconds, to_times, why_not_numbers
from trainer.data.csv_file import CsvFile
from trainer.data.table_files import explained, frames_of, kind_of, show
from trainer.errors import DataError

_ADVICE = "fill it in or remove the row"
_SHOWN = 3
"""Largest number of bad cells that one message names."""


class Table:
    """The columns of one table: a CSV (also ``.gz``), a ``.parquet`` file, or a mapping in ``.json``.

    A folder of ``.parquet`` files is one table too, in order of their names. Columns are text until a method converts
    them. Null and empty cells are missing.

    Attributes:
        path: Path of the file.
        first_row: Number of the first row in the file, from 0; above 0 for a later block.
        frame: Columns of the table, missing cells null.
        notes: Sentences about cells that were read other than they are written, by column and by what was read so.
    """

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",", quote: str = '"') -> None:
        """Reads the named columns.

        Raises:
            DataError: The file cannot be read, a line has too many or too few cells, or a column is absent.
        """
        csv_file = CsvFile(path, separator, quote)
        with explained(path):
            frames = list(frames_of(path, columns, csv_file))
        self._hold(path, pl.concat(frames) if frames else pl.DataFrame(), 0, csv_file)

    @staticmethod
    def blocks(path: Path, columns: Sequence[str], separator: str, quote: str, rows: int) -> Iterator[Table]:
        """Yields the table in blocks of about `rows` rows, in order; the file may be larger than memory.

        Raises:
            DataError: As for the constructor; raised at the block that holds the bad cells.
        """
        csv_file = CsvFile(path, separator, quote)
        frames = frames_of(path, columns, csv_file, rows)
        first_row = 0
        while True:
            with explained(path):
                frame = next((each for each in frames if each.height), None)
            if frame is None and first_row:
                return
            table = Table.__new__(Table)
            table._hold(path, pl.DataFrame() if frame is None else frame, first_row, csv_file)
            first_row += len(table)
            yield table

    @staticmethod
    def of(path: Path, frame: pl.DataFrame) -> Table:
        """Returns the table of some columns that were read of a file.

        Raises:
            DataError: There are no rows.
        """
        table = Table.__new__(Table)
        table._hold(path, frame, 0, CsvFile(path))
        return table

    @staticmethod
    def of_rows(path: Path, frame: pl.DataFrame, first_row: int) -> Table:
        """Returns a block of a Parquet file.

        Args:
            path: Path or name of the file, for messages alone.
            frame: Columns of the block.
            first_row: Number of its first row in the file, from 0.

        Raises:
            DataError: There are no rows.
        """
        table = Table.__new__(Table)
        table._hold(path, frame, first_row, None)
        return table

    def _hold(self, path: Path, frame: pl.DataFrame, first_row: int, csv_file: CsvFile | None) -> None:
        self.path, self.first_row = path, first_row
        self._csv_file = csv_file if csv_file is not None and kind_of(path) == "csv" else None
        self.notes: dict[tuple[str, str], str] = {}
        self.frame = frame.with_columns(pl.col(pl.String).replace("", None))  # a quoted empty cell is empty too
        if self.frame.is_empty():
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        """Number of rows."""
        return self.frame.height

    def ids(self, column: str, *, required: bool = True, advice: str = _ADVICE) -> pl.Series:
        """Returns a column of ids as text: without blanks around them, and whole numbers without a fraction.

        Raises:
            DataError: A cell is missing and `required` is set, or ids are floating-point numbers that are too large to
                be exact.
        """
        try:
            series = to_ids(self.frame[column], self._noting(column))
        except ValueError as error:
            raise DataError(f"{self.path}, column {column!r}: {error}") from error
        except pl.exceptions.PolarsError:
            series = self._cast(column, pl.String)
        series = series.replace("", None)
        if required:
            self.refuse(column, series.is_null(), f"where every row needs a value; {advice}")
        return series

    def strings(self, column: str, *, required: bool = False) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: A cell is missing, and `required` is set.
        """
        series = self._cast(column, pl.String)
        if required and series.null_count():
            self.refuse(column, series.is_null(), f"where every row needs a value; {_ADVICE}")
        return series

    def floats(self, column: str, *, required: bool = False, decimal: str = "") -> pl.Series:
        """Returns a column as Float64, finite where present; `decimal` is that of `to_numbers`.

        Raises:
            DataError: A cell is not a finite number, or is missing and `required` is set.
        """
        raw = self.frame[column]
        is_text = raw.dtype == pl.String
        series = to_numbers(raw, self._noting(column), decimal) if is_text else self._cast(column, pl.Float64)
        bad = (series.is_null() & raw.is_not_null()) | series.is_nan() | series.is_infinite()
        if decimal:
            what = f"is not a number with {decimal!r} before its decimals; mend it, or `decimal` in the recipe"
            self.refuse(column, bad.fill_null(value=False), what)
        elif is_text and bad.any():
            self.refuse(column, *why_not_numbers(raw, bad.fill_null(value=False)))
        self.refuse(
            column,
            bad.fill_null(value=False),
            "is not a finite number; mend it (such as 12.5), leave it empty, or list it as missing in the recipe",
        )
        if required:
            self.refuse(column, series.is_null(), "where every row needs a number; fill it in or remove the row")
        return series

    def ints(self, column: str, *, decimal: str = "") -> pl.Series:
        """Returns a column as Int64; `decimal` is that of `to_numbers`.

        Raises:
            DataError: A cell is not a whole number.
        """
        floats = self.floats(column, decimal=decimal)
        series = (floats if decimal else self.frame[column]).cast(pl.Int64, strict=False)
        # "1995.0" is a whole number too: some programs write every number as a float.
        series = series.fill_null(floats.cast(pl.Int64, strict=False))
        bad = ((series.cast(pl.Float64) - floats).abs() > 0) | (series.is_null() & floats.is_not_null())
        self.refuse(
            column, bad.fill_null(value=False), "is not a whole number; mend it, or give the attribute type float"
        )
        return series

    def choices(self, column: str, allowed: Sequence[str]) -> pl.Series:
        """Returns a column as text.

        Raises:
            DataError: A cell is missing, or is not one of `allowed`.
        """
        series = self.strings(column, required=True)
        self.refuse(column, ~series.is_in(allowed), f"is not one of {', '.join(allowed)}; mend it or remove the row")
        return series

    def string_lists(self, column: str, separator: str) -> pl.Series:
        """Returns a column as lists of text: cells split at `separator`, blanks stripped, empty values left out."""
        raw = self.frame[column]
        is_list = isinstance(raw.dtype, pl.List)
        lists = (
            self._cast(column, pl.List(pl.String))
            if is_list
            else to_lists(self.strings(column), separator, self._noting(column))
        )
        stripped = lists.list.eval(pl.element().str.strip_chars())
        return stripped.list.eval(pl.element().filter(pl.element() != ""))  # drops nulls too

    def mark_missing(self, column: str, cells: Sequence[str]) -> None:
        """Marks the cells of a column as missing if their text is one of `cells`."""
        marked = pl.when(pl.col(column).cast(pl.String).is_in(cells)).then(None).otherwise(pl.col(column))
        self.frame = self.frame.with_columns(marked.alias(column))

    def times(self, column: str, *, required: bool = True) -> pl.Series:
        """Returns a column of times as Float64 seconds since 1970.

        Raises:
            DataError: A cell is neither a number nor a date and time, or is missing and `required` is set.
        """
        raw = self.frame[column]
        if raw.dtype == pl.Date:
            raw = raw.cast(pl.Datetime("us"))
        if isinstance(raw.dtype, pl.Datetime):
            series = raw.dt.epoch("us").cast(pl.Float64) / 1e6
        elif raw.dtype == pl.String and raw.drop_nulls().head(1).cast(pl.Float64, strict=False).null_count():
            series = to_times(raw)
        else:
            series = to_seconds(self._cast(column, pl.Float64), self._noting(column))
        bad = (series.is_null() | series.is_nan() | series.is_infinite()).fill_null(value=True)
        if not required:
            bad &= raw.is_not_null()
        self.refuse(
            column, bad, "is not a time; write seconds since 1970 or 2026-11-24T03:16:45, the same way in every row"
        )
        return series

    def refuse_duplicates(self, column: str) -> None:
        """Checks that no two rows of a column have the same id.

        Raises:
            DataError: Two rows have the same id; the message names them.
        """
        series = self.ids(column)
        self.refuse(column, series.is_duplicated(), "is in several rows; keep one of them")

    def place(self, row: int) -> str:
        """Returns where a row of this table is in its file, such as ``"line 12"``."""
        row += self.first_row
        return f"row {row + 1}" if self._csv_file is None else f"line {self._csv_file.line_of(row)}"

    def notes_of(self, column: str) -> list[str]:
        """Returns the notes of a column."""
        return [note for (name, _), note in self.notes.items() if name == column]

    def _noting(self, column: str) -> Note:
        def note(what: str, example: object) -> None:
            self.notes.setdefault((column, what), f"{self.path.name}, column {column!r}: {what}, as in {example!r}.")

        return note

    def refuse(self, column: str, bad: pl.Series, what: str) -> None:
        """Raises a `DataError` if `bad`, [n] bool, is true of a cell; `what` ends its sentence about these cells."""
        rows = bad.arg_true().to_list()
        if not rows:
            return
        shown = ", ".join(f"{self.place(row)}: {show(self.frame[column][row])}" for row in rows[:_SHOWN])
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
