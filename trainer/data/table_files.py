"""Tells tables in CSV, Parquet and JSON apart, and reads their columns as they are written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from trainer.data.csv_file import UNREADABLE, CsvFile, explain, not_utf8
from trainer.errors import DataError

JSON_ID, JSON_VALUES = "id", "values"
"""Column names of a JSON mapping: for its keys, and for the lists that they map to where these are not objects."""


def kind_of(path: Path) -> Literal["csv", "parquet", "json"]:
    """Returns how a table is stored, by the ending of its name; a folder that holds ``*.parquet`` files is Parquet.

    Raises:
        DataError: There is no such file, or a folder without such files.
    """
    if path.is_dir():
        if any(path.glob("*.parquet")):
            return "parquet"
        parts = next(path.glob("*=*/"), None)
        why = (
            f"a folder of folders such as {parts.name}, whose names hold a column; write the table without partitions"
            if parts is not None
            else "a folder without a *.parquet file; name the file, or the folder that holds its parts"
        )
        raise DataError(f"{path}: {why}")
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; check the path: --interactions, --items and --users name a file, --data the folder "
            "of a recipe"
        )
    if path.suffix == ".parquet":
        return "parquet"
    return "json" if path.suffix == ".json" else "csv"


def parquet_parts(path: Path) -> list[Path]:
    """Returns the files of a Parquet table: the file itself, or those of the folder in order of their names."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def show(cell: object) -> str:
    """Returns the text of a cell for messages."""
    return "an empty cell" if cell is None else repr(cell.to_list() if isinstance(cell, pl.Series) else cell)


class _Object(tuple[tuple[str, Any], ...]):
    """A JSON object as pairs of key and value, as a dict would hide duplicated keys."""


def read_json(path: Path) -> pl.DataFrame:
    """Returns one row for each key of a JSON mapping, with columns of text or of lists of text.

    Raises:
        DataError: The file is not JSON, or not a mapping of ids to lists or objects.
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
            raise DataError(f"{path}, id {key!r}: {show(entry)} is neither a list nor an object of attributes")
        for name, value in entry if isinstance(entry, _Object) else [(JSON_VALUES, entry)]:
            if name == JSON_ID:
                raise DataError(
                    f"{path}, id {key!r}: an attribute {JSON_ID!r} beside the key, which is the id; rename it"
                )
            columns.setdefault(name, [None] * len(raw))[row] = _json_cell(value, path, key, name)
    return pl.DataFrame([pl.Series(name, _as_lists(cells)) for name, cells in columns.items()])


def _as_lists(cells: list[Any]) -> list[Any]:
    """Returns the cells of a column, all of them as lists if one is a list."""
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


def column_names(path: Path, separator: str = ",", quote: str = '"') -> list[str]:
    """Returns the names of the columns of a table.

    Raises:
        DataError: The file cannot be read.
    """
    with explained(path):
        whole = read_json(path) if kind_of(path) == "json" else None
        return _names(path, whole, CsvFile(path, separator, quote))


def _names(path: Path, whole: pl.DataFrame | None, csv_file: CsvFile) -> list[str]:
    if whole is not None:
        return whole.columns
    if kind_of(path) == "csv":
        return csv_file.header()
    return pl.scan_parquet(parquet_parts(path)).collect_schema().names()


def frames_of(path: Path, columns: Sequence[str], csv_file: CsvFile, rows: int | None = None) -> Iterator[pl.DataFrame]:
    """Yields the named columns of a table file, in frames of about `rows` rows, after checking that they exist.

    `explained` has to surround each use of it.

    Args:
        path: Path of the table.
        columns: Names of the columns to read.
        csv_file: The same file as a CSV; it is used if it is one.
        rows: Number of rows of a frame. Default: all rows in few frames.
    """
    kind, wanted = kind_of(path), list(dict.fromkeys(columns))
    whole = read_json(path) if kind == "json" else None
    names = _names(path, whole, csv_file)
    absent = [name for name in wanted if name not in names]
    if absent:
        separates = f", if {csv_file.separator!r} separates them: see `separator` in the recipe"
        hint = separates if len(names) == 1 and kind == "csv" else ""
        raise DataError(f"{path}: no column {', '.join(map(repr, absent))}; its columns are {names}{hint}")
    if kind == "csv":
        yield from csv_file.frames(wanted) if rows is None else csv_file.frames(wanted, rows)
    elif whole is not None:
        yield whole.select(wanted)
    else:
        lazy = pl.scan_parquet(parquet_parts(path)).select(wanted)
        yield from [lazy.collect()] if rows is None else lazy.collect_batches(chunk_size=rows, maintain_order=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of a file that cannot be read, inside the context, into `DataError`."""
    try:
        yield
    except UnicodeError as error:
        raise not_utf8(path) from error
    except (pl.exceptions.PolarsError, *UNREADABLE) as error:
        raise DataError(
            f"{path}: cannot be read: {explain(error)}; check its separator and quotes, or save it anew"
        ) from error
