"""The files of a table of the served log: Parquet, each whole or absent. Needs the package polars."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrieval.bundle.files import fsync

ColumnType = Literal["string", "int", "float", "strings", "floats"]

_PART_BYTES = 32 << 20
"""Size of rows from which on a part is full, in bytes, so that memory does not hold a whole backlog of rows."""
_ROWS_AT_ONCE = 1000
_BYTES_AT_ONCE = 1 << 20
"""Number and size of rows that are made into columns at once, so that other threads wait for milliseconds at most."""
_ITEM_BYTES = 60
"""Size of a value of a list, in bytes."""
_STALE_S = 3600.0
"""Age from which on a file that is not whole is that of a process that died, in seconds; parts take seconds."""

Row = Sequence[Any]
"""Values of one row, in the order of the columns."""


@dataclass(frozen=True)
class ServedTable:
    """A table of the log.

    Attributes:
        name: Name of the table, and of its folder.
        columns: Type of each column by name, in order.
    """

    name: str
    columns: Mapping[str, ColumnType]


class NotWritten(Exception):
    """Rows cannot be kept.

    Attributes:
        reason: Label of the counter of losses.
    """

    def __init__(self, reason: str, why: str) -> None:
        """Takes the label, and what is wrong."""
        super().__init__(why)
        self.reason = reason


class PartWriter:
    """Gathers rows, and writes them as a part. Used by one thread."""

    def __init__(self, folder: Path, table: ServedTable, max_bytes: int) -> None:
        """Takes the folder of the parts, their table, and the size of the folder from which on nothing is written."""
        import polars as pl  # an extra

        types = {
            "string": pl.String,
            "int": pl.Int64,
            "float": pl.Float64,
            "strings": pl.List(pl.String),
            "floats": pl.List(pl.Float32),
        }
        self._polars = pl
        self._schema = {name: types[kind] for name, kind in table.columns.items()}
        self._folder, self._max_bytes = folder, max_bytes
        self.discard()

    @property
    def is_full(self) -> bool:
        """Whether the part is to be finished before the next row."""
        return self._frames_bytes >= _PART_BYTES

    def make_folder(self) -> None:
        """Makes the folder if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Forgets the rows of the part."""
        self._frames: list[Any] = []
        self._rows: list[Row] = []
        self._frames_bytes = self._rows_bytes = 0

    def add(self, row: Row) -> None:
        """Adds a row.

        Raises:
            TypeError, PolarsError: its values are not of the types of the table.
        """
        self._rows.append(row)
        self._rows_bytes += _row_bytes(row)
        if len(self._rows) >= _ROWS_AT_ONCE or self._rows_bytes >= _BYTES_AT_ONCE:
            self._make_frame()

    def finish(self) -> None:
        """Writes the part, if it has rows, and begins a new one.

        Raises:
            NotWritten: the folder has its largest size.
            OSError, PolarsError: the part cannot be written.
        """
        if self._rows:
            self._make_frame()
        frames = self._frames
        self.discard()
        if not frames:
            return
        self.make_folder()  # whoever trained on its parts may have removed it
        if self._used_bytes() >= self._max_bytes:
            raise NotWritten("size", f"the table has {self._max_bytes} bytes; remove parts that were trained on")
        path = self._folder / f"part-{time.time_ns() // 1_000_000:014}-{os.urandom(4).hex()}.parquet"
        temporary = path.with_suffix(".tmp")
        try:
            self._polars.concat(frames).write_parquet(temporary, compression="zstd", compression_level=1)
            temporary.chmod(0o600)
            fsync(temporary)
            temporary.rename(path)
        except BaseException:  # polars may panic, which is no Exception
            temporary.unlink(missing_ok=True)
            raise

    def _used_bytes(self) -> int:
        """Returns the size of the files in the folder, in bytes. Removes those that a dead process has left."""
        used_bytes = 0
        for path in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another process has renamed or removed it
                status = path.stat()
                if path.match("part-*.tmp") and time.time() - status.st_mtime > _STALE_S:
                    path.unlink()
                else:
                    used_bytes += status.st_size
        return used_bytes

    def _make_frame(self) -> None:
        self._frames.append(self._polars.DataFrame(self._rows, schema=self._schema, orient="row"))
        self._frames_bytes += self._rows_bytes
        self._rows, self._rows_bytes = [], 0


def _row_bytes(row: Row) -> int:
    """Returns about how much memory the values of a row take, in bytes."""
    sizes = (
        len(each) if isinstance(each, str) else _ITEM_BYTES * len(each) if isinstance(each, list) else 10
        for each in row
    )
    return sum(sizes)
