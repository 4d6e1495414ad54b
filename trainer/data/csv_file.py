"""Reads CSV files. The `csv` module of Python is the only parser: nothing is checked by one and read by another.

It takes a quote character inside an unquoted cell as it is (``Screen 24" wide``), as spreadsheets and pandas do. A
parser that counts quotes to skip columns would lose the rows up to the next one. Lines without any value are skipped.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import polars as pl

from trainer.errors import DataError

_ROWS_AT_ONCE = 2000
"""Number of rows that are split into cells at once. With many more, cells leave the caches: it takes thrice as long."""
_ROWS_A_FRAME = 50_000
_PACKED = {".zst": "zstd -d", ".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip"}

_NEAR = 15
"""Number of bytes before and after a bad one that a message shows."""

UNREADABLE = (OSError, EOFError, zlib.error, csv.Error)
"""Exceptions of a file that cannot be read, beside those of its encoding."""

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole page


class CsvFile:
    """A CSV file, plain or compressed as ``.gz``, in UTF-8.

    Attributes:
        path: Path of the file.
        separator: Separator of the cells.
        quote: Quote character; empty: there is none.
    """

    def __init__(self, path: Path, separator: str = ",", quote: str = '"') -> None:
        """Takes path, separator and quote character; nothing is read yet."""
        self.path, self.separator, self.quote = path, separator, quote

    def header(self) -> list[str]:
        """Returns the cells of the first line that has any; empty for an empty file.

        Raises:
            DataError, OSError, UnicodeError, csv.Error: The file cannot be read.
        """
        return next((cells for _, cells in self._rows()), [])

    def first_character(self) -> str:
        """Returns the first character that is no blank; empty for an empty file.

        Raises:
            DataError, OSError, UnicodeError: The file cannot be read.
        """
        with self._open() as file:
            return next((line.strip()[0] for line in file if line.strip()), "")

    def sample(self, count: int) -> list[list[str]]:
        """Returns the first rows, the header among them, whatever the number of their cells.

        Raises:
            OSError, UnicodeError, csv.Error: The file cannot be read.
        """
        return [cells for _, cells in islice(self._rows(), count)]

    def frames(self, columns: Sequence[str], rows: int = _ROWS_A_FRAME) -> Iterator[pl.DataFrame]:
        """Yields the named columns, as text, in frames of about `rows` rows.

        Raises:
            DataError: A line has too many or too few cells, or a quote is never closed; the message names the line.
            OSError, UnicodeError, csv.Error: The file cannot be read.
        """
        names = self.header()
        parts: list[pl.DataFrame] = []
        count = 0
        for cells in self._blocks(len(names), min(rows, _ROWS_AT_ONCE)):
            part = {name: list(map(itemgetter(names.index(name)), cells)) for name in columns}
            parts.append(pl.DataFrame(part, schema=dict.fromkeys(columns, pl.String)))
            count += len(cells)
            if count >= rows:
                yield pl.concat(parts, rechunk=True)
                parts, count = [], 0
        if parts:
            yield pl.concat(parts, rechunk=True)

    def line_of(self, row: int) -> int:
        """Returns the number, from 1, of the line at which a row begins; row 0 is the one behind the header."""
        return next((line for line, _ in islice(self._rows(), row + 1, None)), 0)

    def _blocks(self, width: int, rows: int) -> Iterator[list[list[str]]]:
        """Yields blocks of rows behind the header, each of `width` cells. No Python code runs for a single row."""
        with self._open() as file:
            reader = self._reader(file)
            next(filter(any, reader), None)  # the header
            try:
                while read := list(islice(reader, rows)):
                    cells = list(filter(any, read))
                    if set(map(len, cells)) - {width}:
                        self._refuse_ragged(width)
                    if cells:
                        yield cells
            except csv.Error:
                for _ in self._rows():  # raises an error that names the line
                    pass
                raise

    def _refuse_ragged(self, width: int) -> NoReturn:
        line, cells = next((line, cells) for line, cells in self._rows() if len(cells) != width)
        raise DataError(
            f"{self.path}, line {line}: {len(cells)} cells, the header has {width}; "
            "mend the line (a separator inside a value has to be quoted)"
        )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the number of the first line of each row, and its cells; the header first."""
        with self._open() as file:
            reader = self._reader(file)
            start = 1
            try:
                for cells in reader:
                    if any(cells):
                        yield start, cells
                    start = reader.line_num + 1
            except csv.Error as error:
                if "expected after" in str(error) or "unexpected end" in str(error):
                    raise DataError(
                        f"{self.path}, line {start}: a cell begins with {self.quote} and does not end with it "
                        f"({error}); write a quote within a quoted cell twice, or set quote = '' in the recipe if "
                        "quotes have no meaning"
                    ) from error
                raise

    def _reader(self, file: IO[str]) -> Any:
        quoting: Any = {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE}
        return csv.reader(file, delimiter=self.separator, strict=True, **quoting)

    def _open(self) -> IO[str]:
        if (unpack := _PACKED.get(self.path.suffix)) is not None:
            raise DataError(f"{self.path}: is compressed; unpack it first ({unpack} {self.path.name}), or use .gz")
        # A line ends with a line feed; a carriage return alone, outside of quotes, is an error.
        if self.path.suffix == ".gz":
            return cast("IO[str]", gzip.open(self.path, "rt", encoding="utf-8-sig", newline="\n"))
        return self.path.open(encoding="utf-8-sig", newline="\n")


def explain(error: Exception) -> str:
    """Returns why a file cannot be read, in one line."""
    if isinstance(error, EOFError | zlib.error):
        return "its compressed content is cut off or damaged"
    return str(error).splitlines()[0]


def not_utf8(path: Path) -> DataError:
    """Returns the error of a file that is not UTF-8, with the first line that is not."""
    where = ""
    with contextlib.suppress(*UNREADABLE), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                near = (
                    line[max(0, error.start - _NEAR) : error.start + _NEAR].decode("cp1252", errors="replace").strip()
                )
                where = f" (line {number}, near {near!r} if it is Windows-1252)"
                break
    return DataError(f"{path}: not UTF-8 text{where}; save it as UTF-8")
