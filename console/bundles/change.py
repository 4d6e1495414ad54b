"""Promotion and roll back in the background, one at a time, with what became of the last one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from retrieval.bundle.errors import BundleError
from retrieval.store.live import LivePointer
from retrieval.store.store import BundleStore

_log = logging.getLogger("console")

Kind = Literal["promotion", "roll back"]


class Busy(Exception):
    """Another change is under way."""


@dataclass(frozen=True)
class Change:
    """A change of what is live.

    Attributes:
        kind: "promotion" or "roll back".
        version: Bundle that goes live.
        before: Bundle that was live; empty if there was none.
        state: "running", "done" or "failed".
        message: Why it failed; empty otherwise.
        started_at_ms: Time of its start, in milliseconds since 1970-01-01 UTC.
        ended_at_ms: Time of its end; 0 while it runs.
    """

    kind: Kind
    version: str
    before: str
    state: Literal["running", "done", "failed"] = "running"
    message: str = ""
    started_at_ms: int = 0
    ended_at_ms: int = 0


class Changes:
    """Changes what is live in a store. Safe for use by several threads."""

    def __init__(self, store: BundleStore) -> None:
        """Takes the store."""
        self._store = store
        self._lock = threading.Lock()
        self._last: Change | None = None

    @property
    def last(self) -> Change | None:
        """The change that runs, or the last one of this process; None if there was none."""
        with self._lock:
            return self._last

    def promote(self, version: str, *, expected_live: str) -> None:
        """Starts to make a bundle live, as `python -m trainer promote` does. Failed publish gates are not overridden.

        Args:
            version: version of the bundle.
            expected_live: version that the person saw as live; empty for none. The change fails if another is live.

        Raises:
            Busy: another change is under way.
        """
        self._start(
            Change("promotion", version, expected_live),
            lambda: self._store.promote(version, expected_live=expected_live),
        )

    def roll_back(self, *, expected_live: str, expected_previous: str) -> None:
        """Starts to make the previous live bundle live again, as `python -m trainer rollback` does.

        Args:
            expected_live: version that the person saw as live. The change fails if another is live.
            expected_previous: version that the person saw as the previous one, in the same way.

        Raises:
            Busy: another change is under way.
        """
        self._start(
            Change("roll back", expected_previous, expected_live),
            lambda: self._store.roll_back(expected=(expected_live, expected_previous)),
        )

    def _start(self, change: Change, work: Callable[[], LivePointer]) -> None:
        change = replace(change, started_at_ms=_now_ms())
        with self._lock:
            if self._last is not None and self._last.state == "running":
                raise Busy(f"a {self._last.kind} to {self._last.version} is under way: wait until it has ended")
            self._last = change
        _log.info("%s of %s in place of %s: started", change.kind, change.version, change.before or "nothing")
        threading.Thread(target=self._run, args=(change, work), name="change", daemon=True).start()

    def _run(self, change: Change, work: Callable[[], LivePointer]) -> None:
        try:
            work()
            ended = replace(change, state="done")
        except BundleError as error:
            ended = replace(change, state="failed", message=str(error))
        except Exception as error:
            _log.exception("%s of %s: a bug", change.kind, change.version)
            ended = replace(
                change, state="failed", message=f"a bug, see the log of the console: {type(error).__name__}"
            )
        _log.info("%s of %s: %s %s", change.kind, change.version, ended.state, ended.message)
        with self._lock:
            self._last = replace(ended, ended_at_ms=_now_ms())


def _now_ms() -> int:
    return int(1000 * time.time())
