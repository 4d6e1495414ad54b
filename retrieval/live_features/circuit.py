"""A circuit breaker (Nygard, "Release It!", 2007): what has failed several times in a row is not tried for a while.

```
closed ──failures in a row, for 0.25 s──► open ──after 1 s, one try──► half-open ──success──► closed
                                            ▲                              │
                                            └───────────failure────────────┘
```

Failures have to go on for a while, because many callers may fail at the same moment, when the machine is busy.
"""

from __future__ import annotations

import time

CLOSED, HALF_OPEN, OPEN = 0, 1, 2
FAILURES = 5
"""Least number of failures in a row after which the circuit opens."""
SPAN_S = 0.25
"""Least time from the first of these failures to the last, in seconds."""
PAUSE_S = 1.0
"""Time from the opening to the next try, in seconds."""


class Circuit:
    """Says whether an operation may be tried. Used by one event loop."""

    def __init__(self) -> None:
        """Starts closed."""
        self._failures = 0
        self._failing_since = 0.0
        self._opened_at = 0.0
        self._state = CLOSED

    @property
    def state(self) -> int:
        """`CLOSED`, `HALF_OPEN` or `OPEN`."""
        return self._state

    def may_try(self) -> bool:
        """Returns whether the operation may be tried now. Whoever is told so has to report what came of it."""
        if self._state == CLOSED:
            return True
        # Half-open for longer than a pause: whoever was to try has not reported.
        if time.monotonic() - self._opened_at < PAUSE_S:
            return False
        self._state = HALF_OPEN
        self._opened_at = time.monotonic()
        return True

    def succeeded(self) -> None:
        """Takes note of a success."""
        self._failures = 0
        self._state = CLOSED

    def failed(self) -> None:
        """Takes note of a failure."""
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        fails_for_long = self._failures >= FAILURES and now - self._failing_since >= SPAN_S
        if self._state == HALF_OPEN or (self._state == CLOSED and fails_for_long):
            self._state = OPEN
            self._opened_at = now
