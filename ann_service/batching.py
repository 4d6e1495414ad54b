"""Runs the searches of concurrent calls in batches.

```
call ─► queue ─► is a runner free? ─ yes ─► lead: take a batch from the queue ─► run it ─► the next call in line leads
                        │ no                                                     │
                        └─► wait: to be answered, to lead, or for the deadline ◄─┘
```

A batch is what arrived while the last one ran, in the order of arrival. A search that is alone starts at once. Under
load the searches of a batch share an exact scan, which then costs each of them far less than a scan of its own
(`ann_service.search`). A batch runs in the thread of one of its calls.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import structlog
from prometheus_client import Counter

from ann_service import fusion
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from retrieval.index.hits import Hits
from retrieval.serving.rpc.errors import DeadlinePassed

_log = structlog.get_logger("batching")


class CallContext(Protocol):
    """The part of a `grpc.ServicerContext` that says whether the caller still waits."""

    def is_active(self) -> bool:
        """Returns whether the call has neither ended nor been cancelled."""
        ...

    def time_remaining(self) -> float:
        """Returns the seconds until the deadline, 0 once it has passed."""
        ...


class Batcher:
    """Runs the searches of calls, batch by batch. Safe for several threads."""

    def __init__(self, runners: int, max_batch_size: int, batch_timeout_s: float, batched_searches: Counter) -> None:
        """Takes the limits, and a counter.

        Args:
            runners: number of batches that may run at the same time, at least 1.
            max_batch_size: largest number of searches in a batch; a call with more of them is a batch of its own.
            batch_timeout_s: time that a batch which is not full waits for more searches before it runs, in seconds.
            batched_searches: counts the searches that shared a batch with another call.
        """
        self._max_batch_size, self._batch_timeout_s = max_batch_size, batch_timeout_s
        self._batched_searches = batched_searches
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        # While a runner is free, every call in the queue has been told to lead, so no call waits in vain.
        self._free_runners = runners
        self._queue: deque[_Call] = deque()

    def submit(self, catalogue: Catalogue, plans: Sequence[SearchPlan], context: CallContext) -> list[Hits]:
        """Runs the searches of a call, and returns the hits of each plan, as `ann_service.fusion.rank` does.

        Args:
            catalogue: catalogue to search.
            plans: searches of the call, at least one.
            context: context of the call, whose deadline limits the time in the queue.

        Raises:
            DeadlinePassed: the deadline passed, or the caller cancelled, before the searches ran.
            Exception: `ann_service.fusion.rank` raised it for these plans.
        """
        call = _Call(catalogue, plans, context)
        with self._lock:
            self._queue.append(call)
            self._arrived.notify_all()
            if self._free_runners:
                self._free_runners -= 1
                call.leads = True
        while not call.is_done or call.leads:
            if call.leads:
                self._lead(call)
            else:
                self._wait(call)
        if call.results is None:
            raise call.error or RuntimeError("the batch of this search ended without an answer")
        return call.results

    def _wait(self, call: _Call) -> None:
        """Waits until the call is answered or has to lead a batch.

        Raises:
            DeadlinePassed: neither happened before the deadline.
        """
        woken = call.woken.wait(min(call.context.time_remaining(), threading.TIMEOUT_MAX))
        with self._lock:
            call.woken.clear()
            if woken or call.leads or call.is_done:
                return
            if call in self._queue:
                self._queue.remove(call)
        raise DeadlinePassed()

    def _lead(self, leader: _Call) -> None:
        """Runs a batch, then tells the first call in the queue that does not lead yet to lead the next one."""
        batch: list[_Call] = []
        try:
            self._take_batch(batch)
            by_catalogue: defaultdict[int, list[_Call]] = defaultdict(list)
            for call in batch:
                if call.error is None:
                    by_catalogue[id(call.catalogue)].append(call)
            for calls in by_catalogue.values():
                self._run(calls)
        except BaseException:
            with self._lock:
                if leader in self._queue:  # its thread is about to leave, so it must not lead again
                    self._queue.remove(leader)
            raise
        finally:
            with self._lock:
                for call in batch:
                    call.finish()
                leader.leads = False
                successor = next((call for call in self._queue if not call.leads), None)
                if successor is None:
                    self._free_runners += 1
                else:
                    successor.leads = True
                    successor.woken.set()

    def _take_batch(self, batch: list[_Call]) -> None:
        """Moves the first calls of the queue to `batch`; a call whose caller no longer waits gets an error there."""
        with self._lock:
            if self._batch_timeout_s:
                self._arrived.wait_for(self._is_full, self._batch_timeout_s)
            size = 0
            while self._queue and (not size or size + len(self._queue[0].plans) <= self._max_batch_size):
                call = self._queue.popleft()
                batch.append(call)
                if call.is_awaited:
                    size += len(call.plans)
                else:
                    call.error = DeadlinePassed()

    def _is_full(self) -> bool:
        return sum(len(call.plans) for call in self._queue) >= self._max_batch_size

    def _run(self, calls: Sequence[_Call]) -> None:
        """Runs the searches of calls to one catalogue together; if that fails, call by call, to find the faulty one."""
        try:
            results = iter(fusion.rank(calls[0].catalogue, [plan for call in calls for plan in call.plans]))
            for call in calls:
                call.results = list(islice(results, len(call.plans)))
        except BaseException as error:  # of any kind: each is raised in the thread of the call that caused it
            if len(calls) == 1:
                calls[0].error = error
                return
            _log.exception("a batch failed; its calls are run one by one", calls=len(calls))
            for call in calls:
                self._run([call])
            return
        if len(calls) > 1:
            self._batched_searches.inc(sum(len(call.plans) for call in calls))


@dataclass(eq=False, slots=True)
class _Call:
    """A call in the queue or in a batch, and its outcome.

    Attributes:
        catalogue: Catalogue to search.
        plans: Searches of the call.
        context: Context of the call.
        results: Hits of each plan; None until they are known, or if the call failed.
        error: Exception to raise in the thread of the call.
        leads: Whether the thread of the call has to run the next batch.
        is_done: Whether `results` or `error` is final.
        woken: Event that is set when `leads` or `is_done` becomes true.
    """

    catalogue: Catalogue
    plans: Sequence[SearchPlan]
    context: CallContext
    results: list[Hits] | None = None
    error: BaseException | None = None
    leads: bool = False
    is_done: bool = False
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def is_awaited(self) -> bool:
        """Whether the caller still waits for the answer."""
        return self.context.is_active() and self.context.time_remaining() > 0

    def finish(self) -> None:
        """Marks the call as done and wakes its thread."""
        self.is_done = True
        self.woken.set()
