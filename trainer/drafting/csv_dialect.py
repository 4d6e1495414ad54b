"""Opens a table of unknown form: detects separator and quote character of a CSV, and a line of items for each user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trainer.data.csv_file import UNREADABLE, CsvFile, explain, not_utf8
from trainer.data.sequences import read_sequences
from trainer.data.table_files import kind_of, parquet_parts, read_json
from trainer.data.tables import Table
from trainer.errors import DataError

_SEPARATORS = (",", "\t", ";", "|")
_SAMPLE_ROWS = 1000
"""Number of rows by which separator and quote character are chosen."""


@dataclass(frozen=True)
class Source:
    """An opened table of the user.

    Attributes:
        path: Path of the file.
        table: Columns of the table that have a name.
        separator: Separator of a CSV.
        quote: Quote character of a CSV; empty if it has none.
        format: ``table``, or ``sequences``, see `trainer.recipe.tables.Interactions`.
    """

    path: Path
    table: Table
    separator: str = ","
    quote: str = '"'
    format: str = "table"

    @property
    def frame(self) -> pl.DataFrame:
        """All rows, missing cells null; the cells of a CSV are text."""
        return self.table.frame


def open_source(path: Path, *, may_be_sequences: bool = False) -> Source:
    """Opens a table whose separator and quote character are detected.

    Args:
        path: Path of the file.
        may_be_sequences: Whether a file that is no table may be a line of items for each user.

    Raises:
        DataError: The file cannot be read, or has one column, two columns of the same name, or no header.
    """
    kind = kind_of(path)
    if kind != "csv":
        try:
            names = read_json(path).columns if kind == "json" else list(pl.read_parquet_schema(parquet_parts(path)[0]))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path}: cannot be read: {error}; save it anew") from error
        return Source(path, Table(path, names))
    failure: DataError | None = None
    for separator, quote, names in _candidates(path):
        _check_names(path, names)
        try:
            table = Table(path, [name for name in names if name.strip()], separator, quote)
        except DataError as error:  # the first failure is reported, as its dialect fits best
            failure = failure or error
            continue
        return Source(path, table, separator, quote)
    if failure is None and may_be_sequences:
        try:
            return Source(path, Table.of(path, read_sequences(path).select("user", "item")), format="sequences")
        except DataError as error:
            failure = DataError(f"{path}: no table with several columns, and no line of items for each user: {error}")
    raise failure or DataError(
        f"{path}: no table with several columns, whether split at comma, tab, semicolon or bar; its first line has to "
        "name the columns, and every line has to have as many cells"
    )


def _candidates(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yields possible combinations of separator and quote character, each with the header that it gives.

    Combinations that give all rows the same number of cells come first.
    """
    candidates: list[tuple[bool, int, int, str, str, list[str]]] = []
    failure: DataError | None = None
    try:
        quotes = ("'",) if CsvFile(path).first_character() == "'" else ('"', "")
        for rank, quote in enumerate(quotes):
            for separator in _SEPARATORS:
                try:
                    rows = CsvFile(path, separator, quote).sample(_SAMPLE_ROWS)
                except DataError as error:
                    failure = failure or error
                    continue
                if rows and len(rows[0]) > 1:
                    is_ragged = len(Counter(map(len, rows))) > 1
                    candidates.append((is_ragged, rank, -len(rows[0]), separator, quote, rows[0]))
    except UnicodeError as error:
        raise not_utf8(path) from error
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {explain(error)}; save it anew") from error
    if not candidates and failure is not None:
        raise failure
    for *_, separator, quote, names in sorted(candidates, key=lambda candidate: candidate[:3]):
        yield separator, quote, names


def _check_names(path: Path, names: list[str]) -> None:
    duplicated = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if duplicated:
        raise DataError(f"{path}: column {duplicated[0]!r} is duplicated; give each column a name of its own")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: the first line, {names}, looks like data; put a line with the names of the columns before it"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
