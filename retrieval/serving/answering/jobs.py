"""Calls that are answered together, and the callers that have calls here."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from retrieval.serving.answering.call import Call


@dataclass(eq=False, slots=True)
class Job:
    """Calls that are answered together, and how far the work is.

    Attributes:
        calls: One call, or several small ones of one method.
        callers: Caller of each call.
        steps: Rest of the work; None before it begins.
        is_paused: Whether the job has been paused.
    """

    calls: list[Call]
    callers: list[Caller]
    steps: Iterator[None] | None = None
    is_paused: bool = False


@dataclass(eq=False, slots=True)
class Caller:
    """A caller that has calls here.

    Attributes:
        name: Name of the caller.
        served_s: Virtual time in seconds.
        fresh: Calls whose work has not begun, the small ones and the large ones, each the oldest first.
        paused: Jobs whose work has begun, in the order in which they go on.
        begun: Number of calls whose work has begun and has not ended.
    """

    name: str
    served_s: float
    fresh: tuple[deque[Call], deque[Call]] = field(default_factory=lambda: (deque[Call](), deque[Call]()))
    paused: deque[Job] = field(default_factory=deque[Job])
    begun: int = 0


class Line:
    """Callers in the order of their virtual time. A caller is in the line at most once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Caller]] = []
        self._members: set[Caller] = set()
        self._numbers = count()

    def add(self, caller: Caller) -> None:
        """Adds a caller, unless it is in the line already."""
        if caller not in self._members:
            self._members.add(caller)
            heapq.heappush(self._heap, (caller.served_s, next(self._numbers), caller))

    def first(self) -> Caller | None:
        """Returns the caller with the least virtual time; None if there is none."""
        while self._heap:
            served_s, _, caller = self._heap[0]
            if served_s == caller.served_s:
                return caller
            heapq.heapreplace(self._heap, (caller.served_s, next(self._numbers), caller))
        return None

    def remove_first(self) -> None:
        """Removes the caller that `first` returned."""
        self._members.remove(heapq.heappop(self._heap)[2])
