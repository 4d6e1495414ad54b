"""Structured logs on stderr: JSON lines, or text on a terminal. Tokens and feature values are never logged.

```
any thread ─► line ─► backlog, or dropped and counted if that is full ─► writing thread ─► stderr
```

Whoever reads stderr may stop reading. Then a write hangs, so only the writing thread writes.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections import deque
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")

MAX_BACKLOG = 1 << 20
"""Largest size of the lines that wait for a slow reader of stderr, in characters."""

_LAST_WAIT_S = 1.0

_writers: list[LineWriter] = []
"""The writer of this process, once logs are configured."""


class LineWriter:
    """A text file that never blocks its callers. Safe for several threads."""

    def __init__(self, file: TextIO) -> None:
        """Takes the file that a thread of its own writes to."""
        self._file = file
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._size = 0
        self._lost = 0
        self._is_writing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Takes a line, or drops and counts it if more than `MAX_BACKLOG` wait."""
        with self._changed:
            # The line about lost lines, which the writing thread makes, is always taken.
            if self._size + len(text) > MAX_BACKLOG and threading.current_thread() is not self._thread:
                self._lost += 1
                return
            self._lines.append(text)
            self._size += len(text)
            self._changed.notify_all()

    def flush(self) -> None:
        """Does nothing: lines are written as soon as they can be. See `wait_until_written`."""

    def wait_until_written(self, timeout_s: float) -> None:
        """Waits until all lines are written, at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._lines or self._is_writing), timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                text = self._lines.popleft()  # one write for each line: workers share stderr and must not split lines
                self._size -= len(text)
                lost, self._lost = self._lost, 0
                self._is_writing = True
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):  # closed, or its disk is full: it is told with the next line that is written
                with self._changed:
                    self._lost += lost + 1
                continue
            if lost:
                structlog.get_logger("logs").warning("log lines lost: stderr could not be written", count=lost)


def configure_logs(level: str, worker: int = 0) -> None:
    """Configures structlog for the whole process.

    Args:
        level: least severe level that is written; one of `LEVELS`.
        worker: number of this worker process, which is added to each line; 0: not a worker, nothing is added.
    """

    def add_worker(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, "worker": worker} if worker else event

    # Tracebacks as text: the structured form would log local variables, and feature values among them.
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        add_worker,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if terminal else [structlog.processors.format_exc_info]),
        renderer,
    ]
    _writers[:] = [LineWriter(sys.stderr)]
    file: Any = _writers[0]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=file),
        cache_logger_on_first_use=False,
    )


@atexit.register
def finish_logs() -> None:
    """Waits until the lines so far are written, at most a second. To be called before a process exits."""
    for writer in _writers:
        writer.wait_until_written(_LAST_WAIT_S)
