"""CSV files as other programs write them: no row is lost, and no line is misnamed."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from trainer.data.csv_file import CsvFile
from trainer.data.tables import Table
from trainer.errors import DataError


def write(folder: Path, text: str, name: str = "shop.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("columns", [["u"], ["u", "i"], ["u", "i", "title"]])
def test_a_quote_inside_a_cell_loses_no_row_whatever_columns_are_read(tmp_path: Path, columns: list[str]) -> None:
    lines = [f'u{n},i{n},Screen {n}" wide' if n % 7 == 0 else f"u{n},i{n},plain" for n in range(200)]
    path = write(tmp_path, "u,i,title\n" + "\n".join(lines) + "\n")
    table = Table(path, columns)
    assert len(table) == 200 == sum(1 for _ in csv.reader(path.read_text().splitlines())) - 1
    assert table.frame["u"].to_list() == [f"u{n}" for n in range(200)]
    blocks = list(Table.blocks(path, columns, ",", '"', 30))
    assert sum(len(block) for block in blocks) == 200


def test_a_cell_that_begins_with_a_stray_quote_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'u,title\na,x\nb,"24 inch\nc,y\nd,"z" w\n')
    with pytest.raises(DataError, match=r"shop.csv, line 3: a cell begins with .* set quote = ''"):
        Table(path, ["u"])
    assert len(Table(path, ["u"], quote="")) == 4
    path = write(tmp_path, 'u,title\na,x\nb,"24 inch\nc,y\n')
    with pytest.raises(DataError, match=r"shop.csv, line 3: a cell begins with "):
        Table(path, ["u"])


def test_lines_without_values_are_skipped_and_still_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "u,n\n\na,1\n,\n\nb,x\n\n\n")
    table = Table(path, ["u", "n"])
    assert table.strings("u").to_list() == ["a", "b"]
    with pytest.raises(DataError, match="column 'n': line 6: 'x' is not a finite number"):
        table.floats("n")


def test_lines_are_numbered_behind_cells_with_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path, 'u,text,n\na,"two\nlines",1\nb,"x\ny\nz",2\nc,short,bad\n')
    with pytest.raises(DataError, match="column 'n': line 7: 'bad'"):
        Table(path, ["n"]).floats("n")
    path = write(tmp_path, 'u,text,n\na,"two\nlines",1\nb,2\n')
    with pytest.raises(DataError, match="line 4: 2 cells, the header has 3"):
        Table(path, ["n"])


def test_compressed_files_are_read_or_told_how_to_unpack(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "events.csv.gz", "wt") as file:
        file.write("\ufeffu,i\na,1\nb,2\n")
    assert Table(tmp_path / "events.csv.gz", ["i"]).floats("i").to_list() == [1.0, 2.0]
    write(tmp_path, "packed", "events.csv.zst")
    with pytest.raises(DataError, match=r"is compressed; unpack it first \(zstd -d events.csv.zst\)"):
        Table(tmp_path / "events.csv.zst", ["i"])
    write(tmp_path, "no gzip", "broken.csv.gz")
    with pytest.raises(DataError, match=r"broken.csv.gz: cannot be read"):
        Table(tmp_path / "broken.csv.gz", ["i"])


def test_a_compressed_file_that_is_cut_off_or_damaged_is_told(tmp_path: Path) -> None:
    whole = gzip.compress(b"u,i\n" + b"".join(b"user %d,item %d\n" % (n, n * 7919) for n in range(20_000)))
    for name, content in (("cut", whole[:-500]), ("damaged", whole[:5000] + b"\0" * 500 + whole[5500:])):
        path = tmp_path / f"{name}.csv.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read: (its compressed content is|.*CRC|.*invalid)"):
            Table(path, ["i"])


def test_notes_name_each_kind_once_over_all_blocks(tmp_path: Path) -> None:
    path = write(tmp_path, "u;price\n" + "".join(f"a;{n},50\n" for n in range(100)))
    notes: dict[tuple[str, str], str] = {}
    for block in Table.blocks(path, ["price"], ";", '"', 20):
        block.floats("price")
        notes = {**block.notes, **notes}
    assert list(notes.values()) == ["shop.csv, column 'price': a comma is the decimal separator, as in '0,50'."]


def test_a_cell_may_hold_a_whole_page(tmp_path: Path) -> None:
    page = "x" * 500_000
    path = write(tmp_path, f"u,page\na,{page}\nb,y\n")
    assert Table(path, ["u"]).strings("u").to_list() == ["a", "b"]
    assert Table(path, ["page"]).strings("page").to_list() == [page, "y"]


def test_names_the_line_of_any_row(tmp_path: Path) -> None:
    path = write(tmp_path, '\nu,v\n\na,"1\n2"\nb,3\n')
    file = CsvFile(path)
    assert file.header() == ["u", "v"]
    assert [file.line_of(row) for row in range(2)] == [4, 6]
