"""Reads CSV files. The `csv` module of Python is the only parser: nothing is checked by one and read by another.

It takes a quote character inside an unquoted cell as it is (``Screen 24" wide``), as spreadsheets and pandas do. A
parser that counts quotes to skip columns would lose the rows up to the next one. Lines without any value are skipped.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from trainer.errors import DataError

ROWS_AT_ONCE = 50_000
_PACKED = {".zst": "zstd -d", ".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip"}

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

    def sample(self, count: int) -> list[list[str]]:
        """Returns the first rows, the header among them, whatever the number of their cells.

        Raises:
            OSError, UnicodeError, csv.Error: The file cannot be read.
        """
        return [cells for _, cells in islice(self._rows(), count)]

    def frames(self, columns: Sequence[str], rows: int = ROWS_AT_ONCE) -> Iterator[pl.DataFrame]:
        """Yields the named columns, as text, in frames of at most `rows` rows.

        Raises:
            DataError: A line has too many or too few cells, or a quote is never closed; the message names the line.
            OSError, UnicodeError, csv.Error: The file cannot be read.
        """
        lines = self._rows()
        names = next(lines, (0, []))[1]
        wanted = [names.index(column) for column in columns]
        while block := list(islice(lines, rows)):
            cells = [each for _, each in block]
            if set(map(len, cells)) != {len(names)}:
                line, wrong = next((line, each) for line, each in block if len(each) != len(names))
                raise DataError(
                    f"{self.path}, line {line}: {len(wrong)} cells, the header has {len(names)}; "
                    "mend the line (a separator inside a value has to be quoted)"
                )
            turned = list(zip(*cells, strict=True))
            yield pl.DataFrame(
                [pl.Series(name, turned[at], pl.String) for name, at in zip(columns, wanted, strict=True)]
            )

    def line_of(self, row: int) -> int:
        """Returns the number, from 1, of the line at which a row begins; row 0 is the one behind the header."""
        return next((line for line, _ in islice(self._rows(), row + 1, None)), 0)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the number of the first line of each row, and its cells; the header first."""
        with self._open() as file:
            quoting: Any = {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE}
            reader = csv.reader(file, delimiter=self.separator, strict=True, **quoting)
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

    def _open(self) -> IO[str]:
        if (unpack := _PACKED.get(self.path.suffix)) is not None:
            raise DataError(f"{self.path}: is compressed; unpack it first ({unpack} {self.path.name}), or use .gz")
        # A line ends with a line feed; a carriage return alone, outside of quotes, is an error.
        if self.path.suffix == ".gz":
            return cast("IO[str]", gzip.open(self.path, "rt", encoding="utf-8-sig", newline="\n"))
        return self.path.open(encoding="utf-8-sig", newline="\n")
