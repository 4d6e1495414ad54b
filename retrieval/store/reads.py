"""The reads of a store that are under way, so that another thread can see that one of them hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """A read that has not ended.

    Attributes:
        what: Path or URL that is being read.
        since_s: Time of the start or of the last progress, in seconds of the monotonic clock.
    """

    what: str
    since_s: float


class Reads:
    """The reads that are under way. Safe for use by several threads."""

    def __init__(self) -> None:
        """Starts without a read."""
        self._lock = threading.Lock()
        self._running: dict[object, Read] = {}

    @contextmanager
    def track(self, what: str) -> Generator[Callable[[str], None]]:
        """Registers a read for the length of the context.

        Args:
            what: path or URL that is read first.

        Yields:
            Function to call at each progress, with the path or URL that is read next.
        """
        key = object()

        def progress(what: str) -> None:
            with self._lock:
                self._running[key] = Read(what, time.monotonic())

        progress(what)
        try:
            yield progress
        finally:
            with self._lock:
                del self._running[key]

    def oldest(self) -> Read | None:
        """Returns the read that has gone without progress for the longest time; None if no read is under way."""
        with self._lock:
            return min(self._running.values(), key=lambda read: read.since_s, default=None)
