"""The served log: what callers asked and what they got, in Parquet files, for the next training.

```
answering thread:  request and response as bytes ─► backlog, or dropped if that is full
writing thread:    once a minute, or when half of the backlog is full: rows ─► part-….parquet, whole or absent,
                   a new part after every 32 MiB
```

A part is in the folder of its table, and named after the time in milliseconds since 1970 at which it was written, so
that whoever trained on old parts can remove them. Several processes can share a folder. A process that is killed loses
the rows of its last minute. Needs the package polars.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from prometheus_client import CollectorRegistry, Counter

from retrieval.serving.answering.served_parts import NotWritten, PartWriter, Row, ServedTable

BACKLOG_BYTES = 64 << 20
"""Largest size of the requests and responses that wait to be written, in bytes."""
_ENTRY_BYTES = 500
"""Size of what is held of a call beside its bytes."""
_PERIOD_S = 60.0
CLOSE_S = 5.0
"""Longest time that the end of the drain waits for the log, in seconds; what is not written then is lost."""
_HANGS_S = 1.0
"""Time beyond it, in seconds, in which a part that is being written may be finished."""

_log = structlog.get_logger("served_log")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An answered call that waits.

    Attributes:
        to_rows: Function that returns its rows; the writing thread calls it.
        size_bytes: Size of what it holds.
    """

    to_rows: Callable[[], Iterable[Row]]
    size_bytes: int


def key_of(embedding: Sequence[float]) -> int:
    """Returns a number by which a query of the query tower and its search in the ANN service are found to be one.

    Equal embeddings have equal keys, and no two others in practice.

    Args:
        embedding: [dimension] values of a float32 embedding.
    """
    digest = hashlib.blake2b(np.asarray(embedding, dtype="<f4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


_REASONS = ("backlog", "size", "writing", "closing")
"""Reasons for which calls are lost."""


def count_losses(registry: CollectorRegistry) -> Counter:
    """Returns the counter of the calls that served logs lose."""
    return Counter(
        "two_tower_served_log_losses",
        "Calls that the served log lost: backlog, size of the table, writing, or closing.",
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
        self._errors = (Exception, polars.exceptions.PanicException)
        self._table, self._losses = table, losses
        self._parts = PartWriter(folder / table.name, table, max_bytes)
        try:
            self._parts.make_folder()
        except OSError as error:
            raise ValueError(f"served_log is {folder}, where no folder can be made: {error}") from error
        for reason in _REASONS:
            losses.labels(table.name, reason)  # exported as 0
        self._backlog: deque[_Entry] = deque()
        self._backlog_bytes = 0
        self._taken = self._settled = 0  # calls that the thread writes, and those of them that are written or lost
        self._ends_at: float | None = None
        self._warned: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"served-{table.name}", daemon=True)
        self._thread.start()

    def record(self, to_rows: Callable[[], Iterable[Row]], size_bytes: int) -> None:
        """Keeps an answered call for the next part.

        Args:
            to_rows: function that returns the rows of the call; the writing thread calls it.
            size_bytes: size of what the function holds, such as request and response, in bytes.
        """
        size_bytes += _ENTRY_BYTES
        with self._changed:
            fits = self._ends_at is None and self._backlog_bytes + size_bytes <= BACKLOG_BYTES
            if fits:
                self._backlog.append(_Entry(to_rows, size_bytes))
                self._backlog_bytes += size_bytes
                if self._backlog_bytes > BACKLOG_BYTES // 2:
                    self._changed.notify()
        if not fits:
            self._lose("backlog", 1, "calls come faster than they can be written")

    def start_close(self) -> float:
        """Lets the writing thread write the backlog and end, and returns by when, in seconds of the monotonic clock."""
        with self._changed:
            if self._ends_at is None:
                self._ends_at = time.monotonic() + CLOSE_S
            self._changed.notify()
            return self._ends_at

    def close(self) -> None:
        """Writes the backlog, within `CLOSE_S`; what is not written then is lost. Later calls are not recorded."""
        ends_at = self.start_close()
        self._thread.join(max(0.0, ends_at - time.monotonic()) + _HANGS_S)
        left = self._taken - self._settled + len(self._backlog)
        if self._thread.is_alive() and left:
            self._lose("closing", left, "the disk hangs at the end of the process")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ends_at is not None or self._backlog_bytes > BACKLOG_BYTES // 2, timeout=_PERIOD_S
                )
                calls, self._backlog, is_closed = self._backlog, deque(), self._ends_at is not None
                self._taken, self._settled = len(calls), 0
            self._write(calls)
            if is_closed:
                return

    def _write(self, calls: deque[_Entry]) -> None:
        for number in range(1, self._taken + 1):
            call = calls.popleft()
            with self._counting(number):
                self._check_time()
                for row in call.to_rows():
                    if self._parts.is_full:
                        self._parts.finish()
                        self._settled = number - 1
                    self._check_time()
                    self._parts.add(row)
            with self._changed:
                self._backlog_bytes -= call.size_bytes
        with self._counting(self._taken):
            self._parts.finish()
        self._settled = self._taken

    @contextlib.contextmanager
    def _counting(self, number: int) -> Generator[None]:
        """Counts the calls up to a number that are not written whole as lost, if what is done in the context fails."""
        try:
            yield
        except self._errors as error:  # of the disk, or a bug: neither may end the thread
            reason = error.reason if isinstance(error, NotWritten) else "writing"
            self._lose(reason, number - self._settled, str(error))
            self._settled = number
            self._parts.discard()

    def _check_time(self) -> None:
        if self._ends_at is not None and time.monotonic() > self._ends_at:
            raise NotWritten("closing", f"not all could be written within {CLOSE_S:.0f} s at the end of the process")

    def _lose(self, reason: str, count: int, why: str) -> None:
        self._losses.labels(self._table.name, reason).inc(count)
        if reason not in self._warned:
            self._warned.add(reason)
            _log.warning(
                "the served log loses calls; further losses are only counted",
                table=self._table.name,
                reason=reason,
                calls=count,
                why=why,
            )
