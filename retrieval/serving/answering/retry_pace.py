"""When refused callers may come back: one after another, so that their tries do not cost what answers need.

To receive a call and refuse it costs this service a quarter of a millisecond. A thousand callers who all come back
after a tenth of a second would cost more than one core has. So each refused caller gets a turn of its own (a leaky
bucket used as a meter, as in ITU-T I.371): a pause that is longer the more were refused before.
"""

from __future__ import annotations

import math

TRIES_A_S = 400
"""Number of refused callers that are asked to come back in a second."""

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Shortest and longest pause that a refused caller is asked for, in seconds."""


class RetryPace:
    """The turns of refused callers."""

    def __init__(self) -> None:
        """Starts without refused callers."""
        self._last_turn = 0.0

    def next_pause_s(self, now: float) -> float:
        """Returns the pause of a caller that is refused, in seconds, rounded up to tenths.

        Args:
            now: time in seconds of the monotonic clock.
        """
        turn = max(now + SHORTEST_PAUSE_S, self._last_turn + 1 / TRIES_A_S)
        self._last_turn = min(turn, now + LONGEST_PAUSE_S)
        return math.ceil(10 * (self._last_turn - now) - 1e-6) / 10
