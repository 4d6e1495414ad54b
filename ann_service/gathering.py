"""Whom a turn waits for before it searches (`ann_service.sharing`).

Callers in a loop come back once they are answered, one after the other: a turn that began with the first of them would
leave the rest to the next. So a turn that follows on others gathers for a moment, until as many are there as were
before, unless that was in vain of late.
"""

from __future__ import annotations

import threading
import time

from ann_service.search import scan_cost

_BACK_WITHIN = 0.75
"""Callers in a loop come back one after the other, each within this share of the time of a search alone."""

_LONGEST_PAUSE_S = 0.01
"""Nobody is waited for longer, whatever held up the last search."""

_MOST_MISSES = 4
"""Where gathering is in vain, one turn in 16 tries it."""


class Gathering:
    """Whether to wait for those who will come back, and for how many. Not safe for several threads."""

    def __init__(self, most: int) -> None:
        """Takes how many can search at once: the threads."""
        self._most = most
        self.expected = 0  # searches, with the one whose turn it is
        self.pause_s = 0.0  # who comes, comes so soon after the one before
        self._until = 0.0  # by then all are back
        self._came: threading.Lock | None = None  # of the one that gathers
        self._complete = False  # all were there, and are searched for
        self._misses = self._to_skip = 0

    def answered(self, count: int, began: float, waiting: int) -> None:
        """Notes that a turn is over: how many it answered, when it began, how many others wait."""
        if self._complete:
            self._note(missed=waiting > 0)
        now = time.monotonic()
        alone_s = (now - began) / (count * scan_cost(1, count))
        self.pause_s = min(_BACK_WITHIN * alone_s, _LONGEST_PAUSE_S)
        self.expected = min(count + waiting, self._most)
        self._until = now + self.expected * self.pause_s

    def after_others(self) -> bool:
        """Returns whether a call that finds a turn free may be the first of several that come back."""
        return self.expected > 1 and time.monotonic() < self._until

    def begin(self, came: threading.Lock, waiting: int) -> bool:
        """Returns whether to wait for `came`, which is released once all are there."""
        if self._came is not None or 1 + waiting >= self.expected:
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._came = came
        return True

    def came(self, waiting: int) -> None:
        """Notes that one more waits."""
        if self._came is not None and 1 + waiting >= self.expected:
            self._came.release()
            self._came = None

    def end(self, came: threading.Lock, waiting: int) -> None:
        """Notes who is there."""
        if self._came is came:
            self._came = None
        self._complete = 1 + waiting >= self.expected
        if not self._complete:
            self._note(missed=True)

    def _note(self, *, missed: bool) -> None:
        """Where it is in vain more often than one time in three, it is tried ever more rarely.

        In vain it is too where others come while all that were expected are searched for: they come when they like, as
        if nobody waited for an answer before the next call.
        """
        self._complete = False
        self._misses = min(self._misses + 2, _MOST_MISSES) if missed else max(self._misses - 1, 0)
        self._to_skip = 2**self._misses - 1
