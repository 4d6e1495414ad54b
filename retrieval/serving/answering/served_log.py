"""The served log: what callers asked and what they got, in Parquet files, for the next training.

```
answering thread:  request and response as bytes ─► backlog, or dropped if that is full
writing thread:    once a minute, or when half of the backlog is full: rows ─► part-….parquet, whole or absent
```

A part is in the folder of its table, and named after the time in milliseconds since 1970 at which it was written, so
that whoever trained on old parts can remove them. Several processes can share a folder. A process that is killed loses
the rows of its last minute. Needs the package polars.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from prometheus_client import CollectorRegistry, Counter

from retrieval.bundle.files import fsync

ColumnType = Literal["string", "int", "float", "strings", "floats"]

BACKLOG_BYTES = 64 << 20
"""Largest size of the requests and responses that wait to be written, in bytes."""
_ENTRY_BYTES = 500
"""Size of what is held of a call beside its bytes."""
_PERIOD_S = 60.0
_ROWS_AT_ONCE = 1000
"""Number of rows that are made into columns at once, so that other threads wait for some milliseconds at most."""

_log = structlog.get_logger("served_log")


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


@dataclass(frozen=True, slots=True)
class _Entry:
    """An answered call that waits.

    Attributes:
        to_rows: Function that returns its rows; the writing thread calls it.
        size_bytes: Size of what it holds.
    """

    to_rows: Callable[[], Sequence[Row]]
    size_bytes: int


def key_of(embedding: Sequence[float]) -> int:
    """Returns a number by which a query of the query tower and its search in the ANN service are found to be one.

    Equal embeddings have equal keys, and no two others in practice.

    Args:
        embedding: [dimension] values of a float32 embedding.
    """
    digest = hashlib.blake2b(np.asarray(embedding, dtype="<f4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


_REASONS = ("backlog", "size", "writing")
"""Reasons for which calls are lost."""


def count_losses(registry: CollectorRegistry) -> Counter:
    """Returns the counter of the calls that served logs lose."""
    return Counter(
        "two_tower_served_log_losses",
        "Calls that the served log lost: backlog, size of the table, or writing.",
        ["table", "reason"],
        registry=registry,
    )


class ServedLog:
    """Writes a table of answered calls. Safe for several threads; never blocks or fails a caller.

    Rows that cannot be written are dropped and counted; the first loss of each reason is logged.
    """

    def __init__(self, folder: Path, table: ServedTable, max_bytes: int, losses: Counter) -> None:
        """Makes the folder of the table, and starts the writing thread.

        Args:
            folder: Folder of the log.
            table: Table to write.
            max_bytes: Size of the table, in bytes, from which on nothing is written; old parts are never removed.
            losses: Counter of the calls that were lost, with the labels ``table`` and ``reason``.

        Raises:
            ValueError: polars is not installed, or the folder cannot be made.
        """
        try:
            import polars
        except ModuleNotFoundError as error:
            raise ValueError("served_log needs the extra served-log: pip install polars") from error
        self._polars = polars
        self._folder, self._table, self._max_bytes, self._losses = folder / table.name, table, max_bytes, losses
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"served_log is {folder}, where no folder can be made: {error}") from error
        for reason in _REASONS:
            losses.labels(table.name, reason)  # exported as 0
        self._backlog: deque[_Entry] = deque()
        self._backlog_bytes = 0
        self._is_closed = False
        self._warned: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"served-{table.name}", daemon=True)
        self._thread.start()

    def record(self, to_rows: Callable[[], Sequence[Row]], size_bytes: int) -> None:
        """Keeps an answered call for the next part.

        Args:
            to_rows: function that returns the rows of the call; the writing thread calls it.
            size_bytes: size of what the function holds, such as request and response, in bytes.
        """
        size_bytes += _ENTRY_BYTES
        with self._changed:
            fits = not self._is_closed and self._backlog_bytes + size_bytes <= BACKLOG_BYTES
            if fits:
                self._backlog.append(_Entry(to_rows, size_bytes))
                self._backlog_bytes += size_bytes
                if self._backlog_bytes > BACKLOG_BYTES // 2:
                    self._changed.notify()
        if not fits:
            self._lose("backlog", 1, "calls come faster than they can be written")

    def close(self) -> None:
        """Writes the backlog. Later calls are not recorded."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closed or self._backlog_bytes > BACKLOG_BYTES // 2, timeout=_PERIOD_S
                )
                calls, self._backlog, is_closed = self._backlog, deque(), self._is_closed
            if calls:
                self._write_part(calls)
            with self._changed:
                self._backlog_bytes -= sum(call.size_bytes for call in calls)
            if is_closed:
                return

    def _write_part(self, calls: Sequence[_Entry]) -> None:
        count = len(calls)
        try:
            if sum(map(_size_bytes, self._folder.glob("*.parquet"))) >= self._max_bytes:
                self._lose("size", count, f"the table has {self._max_bytes} bytes; remove parts that were trained on")
                return
            frame = self._polars.concat(list(self._frames(calls)))
            path = self._folder / f"part-{time.time_ns() // 1_000_000:014}-{os.urandom(4).hex()}.parquet"
            temporary = path.with_suffix(".tmp")
            frame.write_parquet(temporary, compression="zstd", compression_level=1)
            temporary.chmod(0o600)
            fsync(temporary)
            temporary.rename(path)
        except Exception as error:  # of the disk, or a bug: neither may end the thread
            self._lose("writing", count, str(error))

    def _frames(self, calls: Sequence[_Entry]) -> Iterator[Any]:
        pl = self._polars
        types = {
            "string": pl.String,
            "int": pl.Int64,
            "float": pl.Float64,
            "strings": pl.List(pl.String),
            "floats": pl.List(pl.Float32),
        }
        schema = {name: types[kind] for name, kind in self._table.columns.items()}
        rows: list[Sequence[Any]] = []
        yield pl.DataFrame(schema=schema)
        for call in calls:
            rows += call.to_rows()
            if len(rows) >= _ROWS_AT_ONCE:
                yield pl.DataFrame(rows, schema=schema, orient="row")
                rows = []
        if rows:
            yield pl.DataFrame(rows, schema=schema, orient="row")

    def _lose(self, reason: str, count: int, why: str) -> None:
        self._losses.labels(self._table.name, reason).inc(count)
        if reason not in self._warned:
            self._warned.add(reason)
            _log.warning(
                "the served log loses calls; further losses are only counted",
                table=self._table.name,
                reason=reason,
                why=why,
            )


def _size_bytes(path: Path) -> int:
    """Returns the size of a file in bytes; 0 if it was removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
