"""Reads the rows of CSV files and the mappings of JSON files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from trainer.errors import DataError

JSON_ID, JSON_VALUES = "id", "values"
"""Column names of a JSON mapping: for its keys, and for the lists that they map to where these are not objects."""


def is_csv(path: Path) -> bool:
    """Returns whether a file is read as CSV: every file except ``.parquet`` and ``.json``."""
    return path.suffix not in (".parquet", ".json")


def show(cell: object) -> str:
    """Returns the text of a cell for messages."""
    return "an empty cell" if cell is None else repr(cell)


def read_rows(path: Path, separator: str, quote: str) -> Iterator[list[str]]:
    """Yields the cells of each row of a CSV, the header first.

    A line ends with a line feed, as it does for polars; a carriage return alone, outside of quotes, is an error.

    Raises:
        OSError, UnicodeError, csv.Error: The file cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from _reader(file, separator, quote)


def refuse_ragged(path: Path, separator: str, quote: str) -> None:
    """Checks that all lines of a CSV have as many cells as the header; the parser would drop or add cells silently.

    Raises:
        DataError: A line has too many or too few cells; the message names it.
        OSError, UnicodeError, csv.Error: The file cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        reader = _reader(file, separator, quote)
        expected = len(next(reader, []))
        for cells in reader:
            if cells and len(cells) != expected:
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {expected}; "
                    "mend the line (a separator inside a value has to be quoted)"
                )


def _reader(file: object, separator: str, quote: str):
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return csv.reader(file, delimiter=separator, quotechar=quote or None, quoting=quoting)  # type: ignore[arg-type]


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
