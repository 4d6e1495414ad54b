"""Reading tables: every type, and error messages that name file, column, line and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from trainer.data.tables import Table
from trainer.errors import DataError


def csv(folder: Path, text: str | bytes, *columns: str, **options: Any) -> Table:
    path = folder / "films.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Table(path, columns, **options)


def parquet(folder: Path, **columns: Any) -> Table:
    path = folder / "films.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return Table(path, list(columns))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    message = refusal(lambda: Table(tmp_path / "nothing.csv", ["a"]))
    assert re.search(
        r"nothing\.csv: no such file; check the path: --interactions, --items and --users name a file", message
    )


def test_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    message = refusal(lambda: csv(tmp_path, "id,name\n1,x\n", "id", "year"))
    assert message.endswith("films.csv: no column 'year'; its columns are ['id', 'name']")


def test_a_lone_column_may_be_due_to_another_separator(tmp_path: Path) -> None:
    message = refusal(lambda: csv(tmp_path, "id;name\n1;x\n", "id", "name"))
    assert message.endswith("['id;name'], if ',' separates them: see `separator` in the recipe")


def test_missing_column_of_parquet_is_named(tmp_path: Path) -> None:
    parquet(tmp_path, id=["1"])
    message = refusal(lambda: Table(tmp_path / "films.parquet", ["year"]))
    assert message.endswith("films.parquet: no column 'year'; its columns are ['id']")


def test_rows_that_end_with_a_carriage_return_alone_are_refused(tmp_path: Path) -> None:
    assert csv(tmp_path, "id\r\n1\r\n2\r\n", "id").strings("id").to_list() == ["1", "2"]
    message = refusal(lambda: csv(tmp_path, "id\n1\r2\n", "id"))
    assert "films.csv: cannot be read: new-line character seen in unquoted field" in message


@pytest.mark.parametrize(("line", "cells"), [("4,5", 2), ("4,5,6,7", 4)], ids=["short", "long"])
@pytest.mark.parametrize("columns", [("a", "b", "c"), ("a",)], ids=["all columns", "one column"])
def test_ragged_line_is_named(tmp_path: Path, line: str, cells: int, columns: tuple[str, ...]) -> None:
    message = refusal(lambda: csv(tmp_path, f"a,b,c\n1,2,3\n{line}\n", *columns))
    assert f"films.csv, line 3: {cells} cells, the header has 3; mend the line" in message


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    message = refusal(lambda: csv(tmp_path, b"id,name\n1,caf\xe9\n", "id", "name"))
    assert "films.csv: not UTF-8 text (line 2, near '1,caf\u00e9' if it is Windows-1252); save it as UTF-8" in message


@pytest.mark.parametrize("text", ['a,b\n1,"x\n2,y\n', "a,b\n"], ids=["open quote", "no rows"])
def test_unreadable_csv_is_one_line_of_message(tmp_path: Path, text: str) -> None:
    message = refusal(lambda: csv(tmp_path, text, "a", "b"))
    assert "films.csv" in message
    assert "\n" not in message


def test_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "films.parquet").write_bytes(b"junk")
    assert "films.parquet: cannot be read" in refusal(lambda: Table(tmp_path / "films.parquet", ["a"]))


@pytest.mark.parametrize("empty", ["", '""'])
def test_empty_id_is_named(tmp_path: Path, empty: str) -> None:
    table = csv(tmp_path, f"id,name\n1,x\n{empty},y\n", "id")
    message = refusal(lambda: table.strings("id", required=True))
    assert "films.csv, column 'id': line 3: an empty cell where every row needs a value" in message
    assert message.endswith("fill it in or remove the row")


def test_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    message = refusal(lambda: parquet(tmp_path, id=["1", ""]).strings("id", required=True))
    assert "films.parquet, column 'id': row 2: an empty cell where every row needs a value" in message


@pytest.mark.parametrize("cell", ["x", "nan", "inf", "1,5"])
def test_bad_number_is_named(tmp_path: Path, cell: str) -> None:
    table = csv(tmp_path, f'price\n1.5\n"{cell}"\n', "price")
    message = refusal(lambda: table.floats("price"))
    assert f"films.csv, column 'price': line 3: '{cell}' is not a finite number; mend it" in message


@pytest.mark.parametrize(
    ("cells", "line", "reason"),
    [
        (["29,85 €", "14,17 €", "$3.50", "7,5"], "line 4: '$3.50' has", "another decimal separator than most cells"),
        (["1.50", "2.25", "3,5", "4.75"], "line 4: '3,5' has", "another decimal separator than most cells"),
        (
            ["1,024", "2,048"],
            "line 2: '1,024', line 3: '2,048' may have",
            "a comma before decimals or between thousands",
        ),
    ],
)
def test_the_cell_that_contradicts_its_column_is_named(
    tmp_path: Path, cells: list[str], line: str, reason: str
) -> None:
    table = csv(tmp_path, "id;price\n" + "".join(f"a;{cell}\n" for cell in cells), "price", separator=";")
    message = refusal(lambda: table.floats("price"))
    assert f"column 'price': {line} {reason}" in message


def test_missing_number_is_named_where_required(tmp_path: Path) -> None:
    table = csv(tmp_path, "id,price\n1,\n", "price")
    assert "column 'price': line 2: an empty cell where every row needs a number" in refusal(
        lambda: table.floats("price", required=True)
    )


def test_fraction_is_no_whole_number(tmp_path: Path) -> None:
    table = csv(tmp_path, "year\n1995.0\n1995.5\n", "year")
    message = refusal(lambda: table.ints("year"))
    assert "column 'year': line 3: '1995.5' is not a whole number; mend it, or give the attribute type float" in message


def test_only_the_first_bad_cells_are_shown(tmp_path: Path) -> None:
    table = csv(tmp_path, "n\n" + "x\n" * 5, "n")
    message = refusal(lambda: table.floats("n"))
    assert "line 2: 'x', line 3: 'x', line 4: 'x' (and 2 more)" in message


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (("hello", "hello"), 2),
        (("2026-11-24", "soon"), 3),
        (("12", "2026-11-24"), 3),
        (("2026-11-24T03:16:45", "12"), 3),
        (("12", ""), 3),
    ],
    ids=["no date", "no date later", "number then date", "date then number", "empty"],
)
def test_bad_time_is_named(tmp_path: Path, cells: tuple[str, str], line: int) -> None:
    table = csv(tmp_path, f"id,at\n1,{cells[0]}\n2,{cells[1]}\n", "at")
    message = refusal(lambda: table.times("at"))
    assert f"films.csv, column 'at': line {line}: " in message
    assert "is not a time; write seconds since 1970 or 2026-11-24T03:16:45" in message


def test_duplicate_id_is_named(tmp_path: Path) -> None:
    table = csv(tmp_path, "id\na\nb\na\n", "id")
    message = refusal(lambda: table.refuse_duplicates("id"))
    assert "column 'id': line 2: 'a', line 4: 'a' is in several rows; keep one of them" in message


def test_list_where_text_is_expected_is_an_error(tmp_path: Path) -> None:
    table = parquet(tmp_path, genres=[["a"]])
    for read in (table.strings, table.floats, table.times):
        assert "films.parquet, column 'genres': its type List(String)" in refusal(lambda read=read: read("genres"))


def test_reads_csv(tmp_path: Path) -> None:
    text = "\ufeffid;n;x;names\r\n1;2;0.5;'a b | c|'\r\n'';;;'|'\r\n"
    table = csv(tmp_path, text, "id", "n", "x", "names", separator=";", quote="'")
    assert table.strings("id").to_list() == ["1", None]
    assert table.ints("n").to_list() == [2, None]
    assert table.floats("x").to_list() == [0.5, None]
    assert table.string_lists("names", "|").to_list() == [["a b", "c"], []]
    assert len(table) == 2


def test_quotes_are_text_where_there_is_no_quote_character(tmp_path: Path) -> None:
    table = csv(tmp_path, 'id\tname\n1\tthe "best\n', "name", separator="\t", quote="")
    assert table.strings("name").to_list() == ['the "best']


# 2026-11-24T03:16:45 UTC is 1795490205 s after 1970: 20,781 days of 86,400 s and 11,805 s.
@pytest.mark.parametrize(
    "cell",
    ["1795490205", "2026-11-24T03:16:45", "2026-11-24 03:16:45", "2026-11-24T03:16:45Z", "2026-11-24T05:16:45+02:00"],
)
def test_reads_times_of_csv(tmp_path: Path, cell: str) -> None:
    assert csv(tmp_path, f"at\n{cell}\n", "at").times("at").to_list() == [1795490205.0]


def test_reads_times_of_parquet(tmp_path: Path) -> None:
    naive, aware = datetime(2026, 11, 24, 3, 16, 45), datetime(2026, 11, 24, 3, 16, 45, 500_000, tzinfo=UTC)
    table = parquet(tmp_path, naive=[naive], aware=[aware], day=[date(2026, 11, 24)], seconds=[1795490205])
    found = [table.times(name).to_list() for name in ("naive", "aware", "day", "seconds")]
    assert found == [[1795490205.0], [1795490205.5], [1795478400.0], [1795490205.0]]


def test_reads_numbers_and_lists_of_parquet(tmp_path: Path) -> None:
    table = parquet(tmp_path, n=[2**60 + 1, None], x=[0.5, None], names=[["a ", None, ""], None])
    assert table.ints("n").to_list() == [1152921504606846977, None]
    assert table.strings("n").to_list() == ["1152921504606846977", None]
    assert table.floats("x").to_list() == [0.5, None]
    assert table.string_lists("names", "|").to_list() == [["a"], None]


def test_cells_marked_as_missing_are_missing(tmp_path: Path) -> None:
    table = csv(tmp_path, "year\n1995\nunknown\nV\n", "year")
    table.mark_missing("year", ("unknown", "V"))
    assert table.ints("year").to_list() == [1995, None, None]
    table = parquet(tmp_path, year=[1995, -1])
    table.mark_missing("year", ("-1",))
    assert table.ints("year").to_list() == [1995, None]


def test_a_folder_of_parquet_files_is_one_table_in_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "films.parquet"
    folder.mkdir()
    for name, years in (("part-2", [3, 4]), ("part-1", [1, 2])):
        pl.DataFrame({"year": years}).write_parquet(folder / f"{name}.parquet")
    assert Table(folder, ["year"]).ints("year").to_list() == [1, 2, 3, 4]
    (tmp_path / "none.parquet").mkdir()
    assert r"a folder without a *.parquet file" in refusal(lambda: Table(tmp_path / "none.parquet", ["year"]))


def test_blocks_of_a_table_count_rows_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text("year\n" + "".join(f"{year}\n" for year in (1, 2, 3, 4, "old")))
    blocks = list(Table.blocks(path, ["year"], ",", '"', 2))
    assert sum(len(block) for block in blocks) == 5
    # The bad cell is in the sixth line of the file, whichever block it falls into.
    assert "line 6: 'old'" in refusal(lambda: [block.ints("year") for block in blocks])


def test_a_number_with_another_decimal_separator_than_the_recipe_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("price;n\n1.129;1\n1.5;2\n")
    table = Table(tmp_path / "films.csv", ["price"], ";")
    message = refusal(lambda: table.floats("price", decimal=","))
    assert "line 3: '1.5' is not a number with ',' before its decimals; mend it, or `decimal` in the recipe" in message
