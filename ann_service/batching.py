"""Runs the searches of calls in batches.

```
call ─► queue ─► is a runner free? ─ yes ─► lead: take a batch off the queue ─► run it ─► hand over to the next in line
                        │ no                                                       │
                        └─► wait: to be answered, to lead, or for the deadline ◄───┘
```

A batch is what arrived while the last one ran, in the order of arrival. A search alone starts at once. Under load the
searches of a batch share an exact scan, which then costs each of them far less than one alone (`ann_service.search`).
A batch runs in the thread of one of its calls.
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

from ann_service.catalogue import Catalogue
from ann_service.fusion import rank_all
from ann_service.plan import SearchPlan
from retrieval.index.hits import Hits
from retrieval.serving.rpc.errors import DeadlinePassed

_log = structlog.get_logger("batching")


class Caller(Protocol):
    """Who waits for the answer; a `grpc.ServicerContext` is one."""

    def is_active(self) -> bool:
        """Returns whether the call has neither ended nor been cancelled."""
        ...

    def time_remaining(self) -> float:
        """Returns the seconds until the deadline, 0 once it has passed."""
        ...


class Batcher:
    """Answers the searches of calls, batch by batch. Safe for several threads."""

    def __init__(self, runners: int, max_batch_size: int, batch_timeout_s: float, batched: Counter) -> None:
        """Takes the limits, and where searches that shared a batch with other calls are counted.

        Args:
            runners: batches that may run at the same time, at least 1.
            max_batch_size: searches in a batch; a call with more is a batch of its own.
            batch_timeout_s: how long a batch that is not full waits for more searches before it runs.
            batched: the counter.
        """
        self._max_batch_size, self._batch_timeout_s, self._batched = max_batch_size, batch_timeout_s, batched
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        # While a runner is free, every call in the queue has been told to lead: none waits in vain.
        self._free_runners = runners
        self._queue: deque[_Call] = deque()

    def search(self, catalogue: Catalogue, plans: Sequence[SearchPlan], caller: Caller) -> list[Hits]:
        """Returns the hits of each plan, as `ann_service.fusion.rank_all` does.

        Args:
            catalogue: to search.
            plans: at least one.
            caller: whose deadline bounds the wait in the queue.

        Raises:
            DeadlinePassed: the deadline passed, or the caller cancelled, before the searches ran.
            Exception: what `rank_all` raised for these plans.
        """
        call = _Call(catalogue, plans, caller)
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
        if call.hits is None:
            raise call.error or RuntimeError("the batch of this search ended without an answer")
        return call.hits

    def _wait(self, call: _Call) -> None:
        """Waits until the call is answered or has to lead a batch.

        Raises:
            DeadlinePassed: neither happened before the deadline.
        """
        woken = call.woken.wait(min(call.caller.time_remaining(), threading.TIMEOUT_MAX))
        with self._lock:
            call.woken.clear()
            if woken or call.leads or call.is_done:
                return
            if call in self._queue:
                self._queue.remove(call)
        raise DeadlinePassed()

    def _lead(self, leader: _Call) -> None:
        """Runs a batch, then tells the first call in the queue that does not lead yet to lead the next."""
        batch: list[_Call] = []
        try:
            batch = self._take_batch()
            together: defaultdict[int, list[_Call]] = defaultdict(list)
            for call in batch:
                together[id(call.catalogue)].append(call)
            for calls in together.values():
                self._answer(calls)
        finally:
            with self._lock:
                for call in batch:
                    call.finish()
                leader.leads = False
                following = next((call for call in self._queue if not call.leads), None)
                if following is None:
                    self._free_runners += 1
                else:
                    following.leads = True
                    following.woken.set()

    def _take_batch(self) -> list[_Call]:
        """Takes the first calls off the queue, without those that nobody waits for any more."""
        with self._lock:
            if self._batch_timeout_s:
                self._arrived.wait_for(self._is_full, self._batch_timeout_s)
            batch: list[_Call] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0].plans) <= self._max_batch_size):
                call = self._queue.popleft()
                if call.is_wanted:
                    batch.append(call)
                    size += len(call.plans)
                else:
                    call.error = DeadlinePassed()
                    call.finish()
            return batch

    def _is_full(self) -> bool:
        return sum(len(call.plans) for call in self._queue) >= self._max_batch_size

    def _answer(self, calls: Sequence[_Call]) -> None:
        """Searches one catalogue for all calls; where that fails, for one after the other, so that each fails alone."""
        try:
            hits = iter(rank_all(calls[0].catalogue, [plan for call in calls for plan in call.plans]))
            for call in calls:
                call.hits = list(islice(hits, len(call.plans)))
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            _log.exception("a batch failed; its calls are run one by one", calls=len(calls))
            for call in calls:
                self._answer([call])
            return
        if len(calls) > 1:
            self._batched.inc(sum(len(call.plans) for call in calls))


@dataclass(eq=False, slots=True)
class _Call:
    """The searches of one call, and what became of them.

    Attributes:
        leads: its thread has to run the next batch.
        is_done: `hits` or `error` is final.
        woken: set once either of the two is true.
    """

    catalogue: Catalogue
    plans: Sequence[SearchPlan]
    caller: Caller
    hits: list[Hits] | None = None
    error: Exception | None = None
    leads: bool = False
    is_done: bool = False
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def is_wanted(self) -> bool:
        return self.caller.is_active() and self.caller.time_remaining() > 0

    def finish(self) -> None:
        self.is_done = True
        self.woken.set()
