"""The calls that wait for a thread: time is shared between callers, and under overload the newest call goes first.

Three published rules, together:

- **Fair shares** (start-time fair queueing; Goyal, Vin and Cheng 1996). A caller has a virtual time: the time that
  threads have worked for it. The caller with the least goes next. A caller that comes anew starts at the virtual time
  of the last one that was served, so it waits for nobody's backlog, and idling saves up nothing.
- **Controlled delay** (Nichols and Jacobson 2012, in the form for servers of Maurer, "Fail at Scale", 2015). A call
  waits at most a third of the time that its caller allows. If calls have waited without a gap for `INTERVAL_S`, the
  service is overloaded, and it waits at most a fifth. A call that waits longer is refused, since its answer would come
  late for its caller, and make those behind it late too.
- **Adaptive LIFO** (Maurer 2015). Under overload, and once the oldest call of a caller has waited long
  (`retrieval.serving.answering.limit.LATE`), its newest goes first: its caller waits for certain, while that of the
  oldest is about to give up.

A call that needs many steps is paused between them and waits again. While several jobs are paused, only a caller that
has none begins another: if all that arrive were begun at once, each would take as long as all together, and none would
be in time.
"""

from __future__ import annotations

import math

from retrieval.serving.answering.call import SMALL_BYTES, Call
from retrieval.serving.answering.jobs import Caller, Job, Line
from retrieval.serving.answering.limit import budget_s, has_waited_long

INTERVAL_S = 0.1
"""Time without a moment in which no call waits, in seconds, from which on the service is overloaded."""

PATIENCE = 1 / 3
PATIENCE_UNDER_OVERLOAD = 1 / 5
"""Longest wait, as a share of the time between the arrival of a call and its deadline."""

SHARED_BYTES = 4096
JOINING_BYTES = 2048
"""Largest total size of the bodies of calls that are answered together, and largest size of each of them.

Each gets its answer when all are done, so none may cost much more than the others. A search with an embedding of 500
dimensions takes 2048 bytes.
"""

_SMALL, _LARGE, _PAUSED = 0, 1, 2
MOST_PAUSED = (4, 2)
"""Number of paused jobs of small calls, and of large ones, from which on a caller begins at most one job."""


class Waiting:
    """The calls that wait. Not safe for several threads: `retrieval.serving.answering.runners.Runners` holds a lock."""

    def __init__(self) -> None:
        """Starts without calls."""
        self._callers: dict[str, Caller] = {}
        self._fresh = (Line(), Line())
        self._paused = Line()
        self._paused_count = [0, 0]
        self._clock_s = 0.0
        self._fresh_count = 0
        self._last_gap = -math.inf

    @property
    def fresh_count(self) -> int:
        """Number of calls whose work has not begun."""
        return self._fresh_count

    def has_fresh(self, caller: str) -> bool:
        """Returns whether a call of a caller waits whose work has not begun."""
        known = self._callers.get(caller)
        return known is not None and any(known.fresh)

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
        size = _size(call)
        caller.fresh[size].append(call)
        self._fresh_count += 1
        self._fresh[size].add(caller)

    def take(self, now: float, *, with_paused: bool = True) -> Job | None:
        """Takes the job that is next; None if there is none.

        Args:
            now: time in seconds of the monotonic clock.
            with_paused: whether a paused job may be taken.
        """
        candidates = [
            (caller.served_s, size) for size in (_SMALL, _LARGE) if (caller := self._first_fresh(size)) is not None
        ]
        paused = self._paused.first() if with_paused else None
        if paused is not None:
            candidates.append((paused.served_s, _PAUSED))
        if not candidates:
            return None
        served_s, kind = min(candidates)
        self._clock_s = max(self._clock_s, served_s)
        return self._resume() if kind == _PAUSED else self._start(now, kind)

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
            for size, calls in enumerate(caller.fresh):
                late = {call for call in calls if call.has_left or now > _waits_until(call, patience)}
                if late:
                    expired += late
                    kept = [call for call in calls if call not in late]
                    calls.clear()
                    calls.extend(kept)
                    if not kept:
                        self._fresh[size].remove(caller)
            self._forget_if_idle(caller)
        self._fresh_count -= len(expired)
        return expired

    def pause(self, job: Job, elapsed_s: float) -> None:
        """Puts a job back that needs further steps.

        Args:
            job: job that `take` returned.
            elapsed_s: time that its last steps took, in seconds.
        """
        _charge(job, elapsed_s)
        job.is_paused = True
        owner, size = job.callers[0], _size(job.calls[0])
        self._paused_count[size] += 1
        if size == _SMALL:
            owner.paused.appendleft(job)
        else:
            owner.paused.append(job)
        self._paused.add(owner)

    def add_paused(self, job: Job, elapsed_s: float) -> None:
        """Adds a job whose first steps were done elsewhere.

        Args:
            job: a job of other waiting calls.
            elapsed_s: time that these steps took, in seconds.
        """
        job.callers = [self._caller(caller.name) for caller in job.callers]
        for caller in job.callers:
            caller.begun += 1
        self.pause(job, elapsed_s)

    def finish(self, job: Job, elapsed_s: float) -> None:
        """Takes note that a job has ended.

        Args:
            job: job that `take` returned.
            elapsed_s: time that its last steps took, in seconds.
        """
        _charge(job, elapsed_s)
        for caller in job.callers:
            caller.begun -= 1
            self._forget_if_idle(caller)

    def _first_fresh(self, size: int) -> Caller | None:
        """Returns the caller with the least virtual time that may begin a call of a size."""
        if self._paused_count[size] < MOST_PAUSED[size]:
            return self._fresh[size].first()
        return self._fresh[size].first(lambda caller: not caller.begun)

    def _start(self, now: float, size: int) -> Job:
        """Returns a job of the next call of a size, and of small calls of the same method that can share its steps."""
        is_overloaded = self.is_overloaded(now)
        line = self._fresh[size]
        calls: list[Call] = []
        callers: list[Caller] = []
        most, size_bytes = 1, 0
        while len(calls) < most and (caller := self._first_fresh(size)) is not None:
            waiting = caller.fresh[size]
            # By the smaller budget: otherwise calls with little time would wait behind those with much.
            newest_first = is_overloaded and has_waited_long(waiting[0], now, beside=waiting[-1])
            call = waiting[-1 if newest_first else 0]
            size_bytes += len(call.body)
            is_larger = size_bytes > SHARED_BYTES or len(call.body) > JOINING_BYTES
            if calls and (is_larger or call.method is not calls[0].method):
                break
            line.remove(caller)
            _ = waiting.pop() if newest_first else waiting.popleft()
            self._fresh_count -= 1
            if waiting:
                line.add(caller)
            if not calls and len(call.body) <= JOINING_BYTES:
                most = call.method.max_shared
            calls.append(call)
            callers.append(caller)
            caller.begun += 1
            call.started_at = now
        return Job(calls, callers)

    def _resume(self) -> Job:
        """Returns the paused job that goes on next: of a caller's jobs, a small one first."""
        caller = self._paused.first()
        assert caller is not None
        self._paused.remove(caller)
        job = caller.paused.popleft()
        if caller.paused:
            self._paused.add(caller)
        self._paused_count[_size(job.calls[0])] -= 1
        return job

    def _caller(self, name: str) -> Caller:
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = Caller(name, self._clock_s)
        return caller

    def _forget_if_idle(self, caller: Caller) -> None:
        if not (caller.fresh[_SMALL] or caller.fresh[_LARGE] or caller.begun):
            self._callers.pop(caller.name, None)


def _charge(job: Job, elapsed_s: float) -> None:
    for caller in job.callers:
        caller.served_s += elapsed_s / len(job.callers)


def _waits_until(call: Call, patience: float) -> float:
    """Returns the time until which a call waits, in seconds of the monotonic clock."""
    return call.received_at + patience * budget_s(call)


def _size(call: Call) -> int:
    return _SMALL if len(call.body) <= SMALL_BYTES else _LARGE
