"""A limit on the number of log lines of one kind, that counts the lines that it leaves out."""

from __future__ import annotations

BURST = 20
"""Number of lines that may be written at once."""

REFILL_S = 1.0
"""Time in which one more line may be written, in seconds."""

SUMMARY_S = 10.0
"""Shortest time between two summaries of the lines that were left out, in seconds."""


class LogBudget:
    """A token bucket for lines of one kind: 20 at once, then one a second. Not safe for several threads.

    However many events there are, a day has at most 20 + 86,400 lines of a kind, and 8,640 summaries.
    """

    __slots__ = ("_at", "_left_out", "_summary_at", "_tokens")

    def __init__(self, now: float) -> None:
        """Starts with a full bucket.

        Args:
            now: time in seconds of the monotonic clock.
        """
        self._tokens = float(BURST)
        self._at = self._summary_at = now
        self._left_out = 0

    def spend(self, now: float) -> bool:
        """Returns whether a line may be written; if not, it is counted.

        Args:
            now: time in seconds of the monotonic clock.
        """
        self._tokens = min(float(BURST), self._tokens + (now - self._at) / REFILL_S)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self._left_out += 1
        return False

    def take_left_out(self, now: float, *, at_once: bool = False) -> int:
        """Returns the number of lines to report as left out, and forgets them; 0 if there is nothing to report yet.

        Args:
            now: time in seconds of the monotonic clock.
            at_once: whether to report although the last report was less than `SUMMARY_S` ago.
        """
        if not self._left_out or (now - self._summary_at < SUMMARY_S and not at_once):
            return 0
        left_out, self._left_out, self._summary_at = self._left_out, 0, now
        return left_out
