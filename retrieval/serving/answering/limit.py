"""How many calls may wait: a limit that follows the time that calls really wait.

Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks", 1989), as TCP does: each call that waited briefly raises the limit a little,
a call that waited long lowers it by a third. So the limit settles at as many calls as are begun in time, whatever they
cost and however fast the machine is. A call beyond it is refused as soon as its headers have arrived.
"""

from __future__ import annotations

import time

from retrieval.serving.answering.call import Call

LATE = 1 / 6
"""A call has waited long if it waited more than this share of the time between its arrival and its deadline."""

LONGEST_BUDGET_S = 30.0
"""Time between arrival and deadline, in seconds, that is assumed of calls with more, or without a deadline."""

_LEAST = 4.0
_DECREASE = 2 / 3
_PAUSE_S = 0.02
"""Time after a decrease, in seconds, in which the limit is not lowered again: its effect has to show first."""
_CALM_S = 1.0
"""Time without a call that waited long, in seconds, after which there is no limit but the highest one."""


def budget_s(call: Call) -> float:
    """Returns the time between the arrival of a call and its deadline, at most `LONGEST_BUDGET_S`, in seconds."""
    return min(call.deadline - call.received_at, LONGEST_BUDGET_S)


def has_waited_long(call: Call, now: float, *, beside: Call | None = None) -> bool:
    """Returns whether a call has waited for more than a share `LATE` of its budget.

    Args:
        call: call whose work has not begun, or begins now.
        now: time in seconds of the monotonic clock.
        beside: another call, whose budget counts if it is smaller. Default: none.
    """
    allowed_s = budget_s(call) if beside is None else min(budget_s(call), budget_s(beside))
    return now - call.received_at > LATE * allowed_s


class WaitingLimit:
    """The largest number of calls that may wait."""

    def __init__(self, highest: int) -> None:
        """Starts at the highest limit."""
        self._highest = highest
        self._value = float(highest)
        self._lowered_at = 0.0

    @property
    def value(self) -> int:
        """The limit at this moment."""
        if self._value < self._highest and time.monotonic() - self._lowered_at > _CALM_S:
            self._value = float(self._highest)
        return int(self._value)

    def note(self, call: Call, now: float, waiting: int) -> None:
        """Takes note of the wait of a call that begins, or is refused because it waited too long.

        Args:
            call: the call.
            now: time in seconds of the monotonic clock.
            waiting: number of calls that wait.
        """
        if not has_waited_long(call, now):
            self._value = min(self._value + 1 / self._value, self._highest)
        elif now - self._lowered_at > _PAUSE_S:
            # From what waits now: a limit far above it would take many steps to have an effect.
            self._value = max(_DECREASE * min(self._value, waiting + 1), _LEAST)
            self._lowered_at = now
