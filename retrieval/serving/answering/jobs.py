"""Calls that are answered together, and the callers that have calls here."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
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
        paused: Jobs that are paused, in the order in which they go on: small ones first.
        begun: Number of calls whose work has begun and has not ended.
    """

    name: str
    served_s: float
    fresh: tuple[deque[Call], deque[Call]] = field(default_factory=lambda: (deque[Call](), deque[Call]()))
    paused: deque[Job] = field(default_factory=deque[Job])
    begun: int = 0


class Line:
    """Callers in the order of their virtual time, and of their arrival in the line where that is equal."""

    def __init__(self) -> None:
        """Starts empty."""
        self._heap: list[tuple[float, int, Caller]] = []
        self._numbers: dict[Caller, int] = {}
        self._next_number = count()

    def add(self, caller: Caller) -> None:
        """Adds a caller, unless it is in the line already."""
        if caller not in self._numbers:
            self._numbers[caller] = next(self._next_number)
            heapq.heappush(self._heap, (caller.served_s, self._numbers[caller], caller))

    def remove(self, caller: Caller) -> None:
        """Removes a caller that is in the line; its entry in the heap goes when it comes up."""
        del self._numbers[caller]

    def first(self, may_go: Callable[[Caller], bool] = lambda caller: True) -> Caller | None:
        """Returns the caller with the least virtual time among those that may go; None if there is none.

        Args:
            may_go: returns whether a caller may go now.
        """
        passed_over: list[tuple[float, int, Caller]] = []
        found: Caller | None = None
        while self._heap and found is None:
            served_s, number, caller = self._heap[0]
            if self._numbers.get(caller) != number:
                heapq.heappop(self._heap)
            elif served_s != caller.served_s:
                heapq.heapreplace(self._heap, (caller.served_s, number, caller))
            elif may_go(caller):
                found = caller
            else:
                passed_over.append(heapq.heappop(self._heap))
        for entry in passed_over:
            heapq.heappush(self._heap, entry)
        return found
