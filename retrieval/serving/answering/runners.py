"""Does the work of calls, in steps: short calls in the thread that receives them, long ones in threads of their own.

```
submit ─┬─ short ─► waiting ─► the event loop: one slice ─┬─ done ───────────────► answered
        │                                                 └─ not done ─┐
        └─ long ──────────────────────────────────► waiting ◄──────────┤
                                                       │               │
                                                       └─► a thread: one slice ─┬─ not done, and others wait
                                                                                └─ done ─► answered
```

To hand a call to another thread and its answer back costs about as much as a short call itself. A long one would keep
the event loop from receiving. Between two slices the loop receives what has arrived. A long call that needs further
slices leaves one thread free, if there are several, so that a call that has just arrived never waits for a slice of a
long one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from retrieval.serving.answering.call import SMALL_BYTES, Call
from retrieval.serving.answering.errors import DeadlinePassed, Overloaded
from retrieval.serving.answering.jobs import Job
from retrieval.serving.answering.limit import WaitingLimit
from retrieval.serving.answering.retry_pace import RetryPace
from retrieval.serving.answering.waiting import Waiting

SLICE_S = 0.002
"""Time after which a job is paused, in seconds."""

FIRST_SLICE_S = 0.05
"""The same for the first slice of a small call in a thread: most are done by then, and pausing helps nobody."""

_NICENESS = 5
"""What the threads are nicer than the event loop; the system bounds the sum to 19."""

_log = structlog.get_logger("runners")


class Runners:
    """Answers calls. All methods belong to one event loop; only `in_flight` and `waiting` may be read elsewhere."""

    def __init__(self, threads: int, max_in_flight: int, max_bytes: int) -> None:
        """Prepares the threads; `start` starts them.

        Args:
            threads: number of threads for long calls, at least 1.
            max_in_flight: largest number of calls that are not answered.
            max_bytes: largest total size of the bodies of calls that are not answered, and of what was fetched for
                them, in bytes.
        """
        self._max_in_flight, self._max_bytes = max_in_flight, max_bytes
        self._threads = [
            threading.Thread(target=self._run, name=f"answer_{number}", daemon=True) for number in range(threads)
        ]
        self._loop: asyncio.AbstractEventLoop
        self._short = Waiting()
        self._limit = WaitingLimit(max_in_flight)
        self._retry_pace = RetryPace()
        self._is_working = False
        self._calls: set[Call] = set()
        self._bytes = 0
        # Only for what long calls share among the loop and the threads:
        self._arrived = threading.Condition()
        self._long = Waiting()
        self._paused_running = 0
        self._stops = False

    @property
    def in_flight(self) -> int:
        """Number of calls that are not answered."""
        return len(self._calls)

    @property
    def waiting(self) -> int:
        """Number of calls whose work has not begun."""
        return self._short.fresh_count + self._long.fresh_count

    def start(self) -> None:
        """Starts the threads."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def limit(self) -> int:
        """Largest number of calls that may wait at this moment."""
        return self._limit.value

    def check_room(self, caller: str) -> None:
        """Checks that one more call may wait, before it is received.

        A caller of whom no call waits may still have one, up to twice the limit, so that a caller with many leaves room
        for others.

        Args:
            caller: name of the caller.

        Raises:
            Overloaded: as many calls wait as can be begun in time.
        """
        waiting, limit = self.waiting, self._limit.value
        if waiting >= limit and (waiting >= 2 * limit or self._short.has_fresh(caller) or self._long.has_fresh(caller)):
            raise self.overloaded("as many requests wait as can be answered in time")

    def overloaded(self, fault: str) -> Overloaded:
        """Returns the error of a refused call, with the pause that its caller is asked for.

        Args:
            fault: what is exhausted.
        """
        return Overloaded(fault, self._retry_pace.next_pause_s(time.monotonic()))

    def submit(self, call: Call) -> None:
        """Admits and queues a call.

        Raises:
            Overloaded: too many calls, or too many bytes, are in flight.
        """
        self.admit(call)
        self.queue(call)

    def admit(self, call: Call) -> None:
        """Counts a call as in flight. `queue` or `release` has to follow.

        Raises:
            Overloaded: too many calls, or too many bytes, are in flight.
        """
        if len(self._calls) >= self._max_in_flight:
            raise self.overloaded(f"{self._max_in_flight} requests are in flight, and that is the limit")
        if self._bytes + len(call.body) > self._max_bytes and self._calls:
            raise self.overloaded(f"requests of {self._max_bytes} bytes are in flight, and that is the limit")
        self._calls.add(call)
        self._bytes += len(call.body)

    def release(self, call: Call) -> None:
        """Ends a call that was admitted and not queued."""
        self._finish([call])

    def queue(self, call: Call) -> None:
        """Queues a call that was admitted; its `answered` is set in the end.

        Raises:
            Overloaded: with what was fetched for the call, too many bytes are in flight. The call has ended.
        """
        if self._bytes + call.prepared_bytes > self._max_bytes and len(self._calls) > 1:
            call.prepared_bytes = 0
            self.release(call)
            raise self.overloaded(
                f"requests and what was fetched for them have {self._max_bytes} bytes, and that is the limit"
            )
        self._bytes += call.prepared_bytes
        if call.method.is_short(call):
            self._short.add(call)
            self._work_soon()
        else:
            with self._arrived:
                self._long.add(call)
                self._arrived.notify()

    def expire(self) -> None:
        """Refuses calls that have waited too long. To be called every few milliseconds."""
        now = time.monotonic()
        expired = self._short.take_expired(now)
        if self._long.fresh_count:
            with self._arrived:
                expired += self._long.take_expired(now)
        for call in expired:
            self._limit.note(call, now, self.waiting)
            if call.is_awaited:
                call.error = self.overloaded("no thread was free in time")
            else:
                call.error = DeadlinePassed()
        self._finish(expired)

    def stop(self, make_error: Callable[[], Exception]) -> None:
        """Ends the threads after their current step. Calls that are not answered get an error.

        Args:
            make_error: makes the error of a call.
        """
        with self._arrived:
            self._stops = True
            self._arrived.notify_all()
        calls = list(self._calls)
        for call in calls:
            call.error = make_error()
        self._finish(calls)

    def _finish(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call in self._calls:  # not if `stop` was faster
                self._calls.remove(call)
                self._bytes -= len(call.body) + call.prepared_bytes
                if not call.answered.done():
                    call.answered.set_result(None)

    # In the event loop: short calls.

    def _work_soon(self) -> None:
        if not self._is_working and self._short.fresh_count:
            self._is_working = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._is_working = False
        job = self._short.take(time.monotonic(), with_paused=False)
        if job is not None:
            self._note_begin(job)
            finished, elapsed_s = _advance(job, SLICE_S)
            self._short.finish(job, elapsed_s)
            if finished:
                self._finish(job.calls)
            else:
                with self._arrived:
                    self._long.add_paused(job, elapsed_s)
                    self._arrived.notify()
        self._work_soon()

    # In the threads: long calls.

    def _note_begin(self, job: Job) -> None:
        for call in job.calls:
            self._limit.note(call, call.started_at, self.waiting)

    def _run(self) -> None:
        # If this thread and the event loop want the same core, the event loop gets it. Relative to the priority with
        # which the service was started: nobody but root may raise that again.
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
        while (job := self._take()) is not None:
            was_paused = job.is_paused
            if not was_paused:
                self._note_begin(job)
            is_small = not was_paused and len(job.calls[0].body) <= SMALL_BYTES
            finished, elapsed_s = _advance(job, FIRST_SLICE_S if is_small else SLICE_S)
            with self._arrived:
                self._paused_running -= was_paused
                if finished:
                    self._long.finish(job, elapsed_s)
                else:
                    self._long.pause(job, elapsed_s)
                self._arrived.notify()  # for what this thread does not take next
            if finished:
                self._loop.call_soon_threadsafe(self._finish, job.calls)
            del job  # frees requests and responses

    def _take(self) -> Job | None:
        """Waits for a job and returns it; None when the threads have to end."""
        most = max(1, len(self._threads) - 1)
        with self._arrived:
            while not self._stops:
                job = self._long.take(time.monotonic(), with_paused=self._paused_running < most)
                if job is not None:
                    self._paused_running += job.is_paused
                    return job
                self._arrived.wait()
        return None


def _advance(job: Job, slice_s: float) -> tuple[bool, float]:
    """Runs steps of a job until it ends or its slice is over.

    Args:
        job: job to run.
        slice_s: length of the slice, in seconds.

    Returns:
        Whether the job has ended, and the time that the steps took, in seconds.
    """
    started = now = time.monotonic()
    finished = False
    try:
        if job.steps is None:
            job.steps = iter(job.calls[0].method.answer(job.calls))
        while not finished and now - started < slice_s:
            finished = next(job.steps, job) is job
            now = time.monotonic()
    except BaseException as error:  # a bug: methods put the errors of calls into the calls
        request_ids = [call.headers.request_id for call in job.calls]
        _log.exception("a method failed outside of its calls", method=job.calls[0].method.name, request_ids=request_ids)
        for call in job.calls:
            call.error = call.error or RuntimeError(str(error))
        finished = True
    for call in job.calls:
        call.work_s += now - started
    return finished, now - started
