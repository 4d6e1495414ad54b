"""The calls that wait for a thread: time is shared between callers, and under overload the newest call goes first.

Three published rules, together:

- **Fair shares** (start-time fair queueing; Goyal, Vin and Cheng 1996). A caller has a virtual time: the time that
  threads have worked for it. The caller with the least goes next. A caller that comes anew starts at the virtual time
  of the last one that was served, so it waits for nobody's backlog, and idling saves up nothing.
- **Controlled delay** (Nichols and Jacobson 2012, in the form for servers of Maurer, "Fail at Scale", 2015). A call
  waits at most a third of the time that its caller allows. If calls have waited without a gap for `INTERVAL_S`, the
  service is overloaded, and it waits at most a fifth. A call that waits longer is refused, since its answer would come
  late for its caller, and make those behind it late too.
- **Adaptive LIFO** (Maurer 2015). Under overload the newest call of a caller goes first: its caller waits for certain,
  while that of the oldest is about to give up.

A call that needs many steps is paused between them and waits again. Paused calls are finished before many more are
begun: if all that arrive were begun at once, each would take as long as all together, and none would be in time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from retrieval.serving.rpc.call import SMALL_BYTES, Call
from retrieval.serving.rpc.limit import budget_s

INTERVAL_S = 0.1
"""Time without a moment in which no call waits, in seconds, from which on the service is overloaded."""

PATIENCE = 1 / 3
PATIENCE_UNDER_OVERLOAD = 1 / 5
"""Longest wait, as a share of the time between the arrival of a call and its deadline."""

MOST_PAUSED_FOR_SMALL = 16
MOST_PAUSED_FOR_LARGE = 2
"""Number of paused jobs from which on no small call, and no large call, is begun."""


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
    callers: list[_Caller]
    steps: Iterator[None] | None = None
    is_paused: bool = False


@dataclass(eq=False, slots=True)
class _Caller:
    """A caller that has calls here.

    Attributes:
        name: Name of the caller.
        served_s: Virtual time in seconds.
        fresh: Calls whose work has not begun, the oldest first.
        paused: Jobs whose work has begun, in the order in which they go on.
        running: Number of calls that threads work on now.
    """

    name: str
    served_s: float
    fresh: deque[Call] = field(default_factory=deque[Call])
    paused: deque[Job] = field(default_factory=deque[Job])
    running: int = 0


class _Line:
    """Callers in the order of their virtual time. A caller is in the line at most once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Caller]] = []
        self._members: set[_Caller] = set()
        self._numbers = count()

    def add(self, caller: _Caller) -> None:
        """Adds a caller, unless it is in the line already."""
        if caller not in self._members:
            self._members.add(caller)
            heapq.heappush(self._heap, (caller.served_s, next(self._numbers), caller))

    def first(self) -> _Caller | None:
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


class Waiting:
    """The calls that wait. Not safe for several threads: `retrieval.serving.rpc.runners.Runners` holds a lock."""

    def __init__(self) -> None:
        """Starts without calls."""
        self._callers: dict[str, _Caller] = {}
        self._fresh, self._paused = _Line(), _Line()
        self._clock_s = 0.0
        self._fresh_count = self._paused_count = 0
        self._last_gap = -math.inf

    @property
    def fresh_count(self) -> int:
        """Number of calls whose work has not begun."""
        return self._fresh_count

    def is_overloaded(self, now: float) -> bool:
        """Returns whether calls have waited without a gap for `INTERVAL_S`.

        Args:
            now: time in seconds of the monotonic clock.
        """
        return self._fresh_count > 0 and now - self._last_gap > INTERVAL_S

    def add(self, call: Call) -> None:
        """Adds a call whose work has not begun."""
        if not self._fresh_count:
            self._last_gap = call.received_at
        caller = self._caller(call.caller)
        caller.fresh.append(call)
        self._fresh_count += 1
        self._fresh.add(caller)

    def take(self, now: float, *, with_paused: bool = True) -> Job | None:
        """Takes the job that is next; None if there is none.

        Args:
            now: time in seconds of the monotonic clock.
            with_paused: whether a paused job may be taken.
        """
        fresh = self._first_fresh()
        paused = self._paused.first() if with_paused else None
        if fresh is not None and self._paused_count >= self._most_paused(fresh):
            fresh = None
        caller = fresh if paused is None or (fresh is not None and fresh.served_s <= paused.served_s) else paused
        if caller is None:
            return None
        self._clock_s = max(self._clock_s, caller.served_s)
        return self._start(now) if caller is fresh else self._resume(caller)

    def take_expired(self, now: float) -> list[Call]:
        """Takes the calls that have waited too long, or whose callers have given up.

        Args:
            now: time in seconds of the monotonic clock.
        """
        if not self._fresh_count:
            return []
        patience = PATIENCE_UNDER_OVERLOAD if self.is_overloaded(now) else PATIENCE
        expired: list[Call] = []
        for caller in list(self._callers.values()):
            late = {call for call in caller.fresh if call.has_left or now > _waits_until(call, patience)}
            if late:
                expired += late
                caller.fresh = deque(call for call in caller.fresh if call not in late)
                self._forget_if_idle(caller)
        self._fresh_count -= len(expired)
        return expired

    def pause(self, job: Job, elapsed_s: float) -> None:
        """Puts a job back that needs further steps.

        Args:
            job: job that `take` returned.
            elapsed_s: time that its last steps took, in seconds.
        """
        self._charge(job, elapsed_s)
        self._keep(job)

    def add_paused(self, job: Job, elapsed_s: float) -> None:
        """Adds a job whose first steps were done elsewhere.

        Args:
            job: a job of other waiting calls.
            elapsed_s: time that these steps took, in seconds.
        """
        job.callers = [self._caller(caller.name) for caller in job.callers]
        for caller in job.callers:
            caller.running += 1
        self.pause(job, elapsed_s)

    def _keep(self, job: Job) -> None:
        job.is_paused = True
        self._paused_count += 1
        owner = job.callers[0]
        owner.paused.append(job)
        self._paused.add(owner)

    def finish(self, job: Job, elapsed_s: float) -> None:
        """Takes note that a job has ended.

        Args:
            job: job that `take` returned.
            elapsed_s: time that its last steps took, in seconds.
        """
        self._charge(job, elapsed_s)
        for caller in job.callers:
            self._forget_if_idle(caller)

    def _most_paused(self, caller: _Caller) -> int:
        """Returns the number of paused jobs from which on the next call of a caller is not begun."""
        newest = caller.fresh[-1]
        return MOST_PAUSED_FOR_SMALL if len(newest.body) <= SMALL_BYTES else MOST_PAUSED_FOR_LARGE

    def _first_fresh(self) -> _Caller | None:
        """Returns the caller with the least virtual time that has calls whose work has not begun."""
        while (caller := self._fresh.first()) is not None and not caller.fresh:  # its calls have expired
            self._fresh.remove_first()
            self._forget_if_idle(caller)
        return caller

    def _start(self, now: float) -> Job:
        """Returns a job of the next call, and of small calls of the same method that can share its steps."""
        newest_first = self.is_overloaded(now)
        calls: list[Call] = []
        callers: list[_Caller] = []
        most, size = 1, 0
        while len(calls) < most and (caller := self._first_fresh()) is not None:
            call = caller.fresh[-1 if newest_first else 0]
            size += len(call.body)
            if calls and (call.method is not calls[0].method or size > SMALL_BYTES):
                break
            self._fresh.remove_first()
            _ = caller.fresh.pop() if newest_first else caller.fresh.popleft()
            self._fresh_count -= 1
            if caller.fresh:
                self._fresh.add(caller)
            if not calls and len(call.body) <= SMALL_BYTES:
                most = call.method.max_shared
            calls.append(call)
            callers.append(caller)
            caller.running += 1
            call.started_at = now
        return Job(calls, callers)

    def _resume(self, caller: _Caller) -> Job:
        self._paused.remove_first()
        self._paused_count -= 1
        job = caller.paused.popleft()
        if caller.paused:
            self._paused.add(caller)
        for each in job.callers:
            each.running += 1
        return job

    def _caller(self, name: str) -> _Caller:
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller(name, self._clock_s)
        return caller

    def _forget_if_idle(self, caller: _Caller) -> None:
        if not (caller.fresh or caller.paused or caller.running):
            self._callers.pop(caller.name, None)

    def _charge(self, job: Job, elapsed_s: float) -> None:
        for caller in job.callers:
            caller.served_s += elapsed_s / len(job.callers)
            caller.running -= 1


def _waits_until(call: Call, patience: float) -> float:
    """Returns the time until which a call waits, in seconds of the monotonic clock."""
    return call.received_at + patience * budget_s(call)
