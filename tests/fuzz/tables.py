"""Tables that the trainer reads: CSV and JSON."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from tests.fuzz.inputs import Choices, Target, edited_bytes, edited_value
from trainer.data.csv_file import CsvFile
from trainer.data.tables import Table
from trainer.errors import DataError

_CELLS = ("1", "2.5", "-1", "a", "2026-11-24", "2026-11-24T03:16:45", "nan", "inf", "1e400", "a|b| c", "'", '""', "\r")
_CSV = [
    b'user,item,time\n1,a,2026-11-24\n2,"b, c",2026-11-25\n3,,1\n',
    b'user;item;time\r\n1;\'a;b\';5\r\n2;"c""d";6\r\n',
    "\ufeffuser|item|time\n1|é|1.5\n2|x y|nan\n".encode(),
    b'user,item,time\n1,"two\nlines",3\n\n4,b,5',
    b"user\n1\n\n2\n",
]
_SEPARATORS = ",;|\t'"
_READINGS = 7
_JSON = [{"1": ["a", "b"], "2": []}, {"1": {"title": "a", "tags": ["x", None]}, "2": {"year": 1995, "ok": True}}]


def table_targets(folder: Path) -> list[Target]:
    """Returns the targets of tables; they write into an existing folder."""
    values = [pickle.dumps(raw) for raw in _JSON]
    words = (*_CELLS, "id", "title")
    return [
        Target("CSV cells", _make_table, lambda table: _check_table(folder / "cells.csv", *table)),
        Target("CSV bytes", _make_csv, lambda case: _check_csv(folder / "bytes.csv", *case)),
        Target(
            "JSON table",
            lambda choices: edited_value(choices, values, words),
            lambda raw: _check_json(folder / "table.json", raw),
        ),
    ]


def _make_table(choices: Choices) -> tuple[list[list[str]], str, str, int, int]:
    """Returns cells, header first, a separator, a quote, a number of rows in a block, and a number of a reading."""
    header = ["user", "item", "time"][: 1 + choices.below(3)]
    rows = [[choices.text(_CELLS) for _ in header] for _ in range(1 + choices.below(7))]
    return (
        [header, *rows],
        choices.pick(_SEPARATORS),
        choices.pick('"^'),
        1 + choices.below(4),
        choices.below(_READINGS),
    )


def _make_csv(choices: Choices) -> tuple[bytes, str, str, int]:
    """Returns the content of a file, a separator, a quote, and a number of a reading."""
    return (
        edited_bytes(choices, _CSV),
        choices.pick(_SEPARATORS),
        choices.pick(('"', "'", "")),
        choices.below(_READINGS),
    )


def _check_table(path: Path, rows: list[list[str]], separator: str, quote: str, block: int, reading: int) -> None:
    """Writes a valid CSV, and checks that no row and no cell is lost."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator, quotechar=quote).writerows(rows)
    header, *cells = rows
    expected = [tuple(cell or None for cell in row) for row in cells if any(row)]  # a line without values is no row
    if not expected:
        assert _allowed_table(lambda: Table(path, header, separator, quote)) is None
    elif reading % 2:
        table = _no_panic(lambda: Table(path, header, separator, quote))
        assert table.frame.rows() == expected
        _read_columns(table, reading)
    else:
        blocks = _no_panic(lambda: list(Table.blocks(path, header, separator, quote, block)))
        assert [row for part in blocks for row in part.frame.rows()] == expected


def _check_csv(path: Path, content: bytes, separator: str, quote: str, reading: int) -> None:
    """Writes any bytes as a CSV, and checks that it is refused, or no cell is lost."""
    path.write_bytes(content)
    table = _allowed_table(lambda: Table(path, ["user"], separator, quote))
    if table is None:
        return
    header, *rows = CsvFile(path, separator, quote).sample(10**9)
    expected = [cell for cells in rows if (cell := cells[header.index("user")])]
    assert table.frame["user"].drop_nulls().to_list() == expected
    _read_columns(table, reading)


def _check_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
    table = _allowed_table(lambda: Table(path, ["id"]))
    if table is not None:
        assert len(table) == len(value)
        assert table.frame["id"].to_list() == [key or None for key in value]


def _allowed_table(read: Callable[[], Table]) -> Table | None:
    """Returns a table; None if it is refused."""
    try:
        return _no_panic(read)
    except DataError:
        return None


def _read_columns(table: Table, reading: int) -> None:
    """Reads every column in one of the ways. Errors other than `DataError` are raised."""
    table.mark_missing("user", ("a", "nan"))
    for column in table.frame.columns:
        readings: tuple[Callable[[], Any], ...] = (
            lambda column=column: table.strings(column, required=True),
            lambda column=column: table.floats(column),
            lambda column=column: table.ints(column),
            lambda column=column: table.times(column),
            lambda column=column: table.choices(column, ("a", "b")),
            lambda column=column: table.string_lists(column, "|"),
            lambda column=column: table.refuse_duplicates(column),
        )
        with suppress(DataError):
            values = _no_panic(readings[reading % _READINGS])
            assert values is None or len(values) == len(table)


def _no_panic(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except pl.exceptions.PanicException as error:  # not an Exception, so hypothesis would not shrink the input
        raise AssertionError(f"polars panicked: {error}") from error
