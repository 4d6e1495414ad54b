"""Shared calls for threads, and for the tasks of an event loop; `two_tower_client.rpc.line` says who shares a call.

`Coalescer` has no thread of its own. The first in line makes the call in its own thread, for itself and for those
behind it, and then wakes the next. So a query that nobody waits beside costs no hand-over.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from two_tower_client.errors import DeadlineExceeded, ServerError, TwoTowerError
from two_tower_client.rpc.grpc_errors import no_answer
from two_tower_client.rpc.line import PATIENCE_SHARE, Asked, Kind, Line

Response = TypeVar("Response")

_GRACE_S = 0.05
"""Time that a call under way is given to report that its deadline has passed, in seconds."""


class SharedCall(NamedTuple):
    """A call to make.

    Attributes:
        body: Serialized request.
        query_count: Number of queries in it.
        timeout_s: Seconds that it may take.
        request_id: Request id.
        may_wait: Whether it waits while no replica can be reached.
    """

    body: bytes
    query_count: int
    timeout_s: float
    request_id: str
    may_wait: bool


def _to_call(batch: list[Asked[Response]], target: str) -> SharedCall:
    """Returns the call of the queries of a batch.

    Raises:
        DeadlineExceeded: If the deadline of one of them has passed.
    """
    first = batch[0]
    timeout_s = min(each.end_s for each in batch) - time.monotonic()
    if timeout_s <= 0:
        raise _late(first, target)
    body = b"".join((first.kind.header, *(each.body for each in batch)))
    return SharedCall(body, len(batch), timeout_s, first.request_id, first.kind.may_wait)


def _late(asked: Asked[Response], target: str) -> DeadlineExceeded:
    error = no_answer(target)
    error.request_id = asked.sent_as
    return error


class Coalescer(Generic[Response]):
    """Makes shared calls for threads.

    Args:
        send: Makes a call and returns its response, or raises a TwoTowerError.
        target: gRPC target, for error messages.
        calls_max: Number of calls under way from which on queries wait.
    """

    def __init__(self, send: Callable[[SharedCall], Response], target: str, calls_max: int) -> None:
        self._send, self._target = send, target
        self._line = Line[Response](calls_max)
        self._lock = threading.Lock()

    def ask(self, kind: Kind, body: bytes, request_id: str, timeout_s: float) -> tuple[Response, int]:
        """Returns the response to a call that the query was in, and the position of its answer in the response.

        Args:
            kind: What the query has in common with those that share its call.
            body: Serialized request with this query alone, without the header.
            request_id: Request id, if the query is the first in its call.
            timeout_s: Seconds until the caller gives up.

        Raises:
            TwoTowerError: The error that the query would have got alone.
        """
        with self._lock:
            is_alone = self._line.begin()
        if is_alone:
            try:
                return self._send(SharedCall(kind.header + body, 1, timeout_s, request_id, kind.may_wait)), 0
            finally:
                with self._lock:
                    following = self._line.end()
                if following is not None:
                    following.wake()
        gate = threading.Lock()  # open once the caller has to do something
        gate.acquire()
        asked = Asked[Response](kind, body, request_id, time.monotonic() + timeout_s, gate.release)
        with self._lock:
            first = self._line.enter(asked)
        if first is not None and first is not asked:
            first.wake()
        while not asked.is_settled:
            if asked.leads:
                self._lead(asked)
            else:
                self._wait(asked, gate, PATIENCE_SHARE * timeout_s)
        return asked.result()

    def _lead(self, asked: Asked[Response]) -> None:
        """Makes a call for a query and those that share it, and wakes the next in line."""
        batch = [asked]
        try:
            with self._lock:
                batch = self._line.take(asked, time.monotonic())
            try:
                outcome: Response | TwoTowerError = self._send(_to_call(batch, self._target))
            except TwoTowerError as error:
                outcome = error
            self._line.settle(batch, outcome, time.monotonic())
        except BaseException:  # a bug, or Ctrl-C: the others ask again
            asked.is_gone = True
            raise
        finally:
            with self._lock:
                following = self._line.end(batch)
            woken = [following] if following is not None else []
            for each in (*woken, *(each for each in batch if each.is_settled)):
                if each is not asked:
                    each.wake()

    def _wait(self, asked: Asked[Response], gate: threading.Lock, patience_s: float) -> None:
        """Waits until a query is settled, or it is its turn to make a call.

        Raises:
            DeadlineExceeded: If neither happens before its deadline.
        """
        try:
            if gate.acquire(timeout=patience_s):
                return
            with self._lock:
                if self._line.insist(asked):
                    return
            if gate.acquire(timeout=max(0.0, asked.end_s - time.monotonic()) + _GRACE_S):
                return
            raise _late(asked, self._target)
        except BaseException:
            with self._lock:
                following = self._line.leave(asked)
            if following is not None:
                following.wake()
            raise


class AsyncCoalescer(Generic[Response]):
    """Makes shared calls for the tasks of one event loop.

    Args:
        send: Makes a call and returns its response, or raises a TwoTowerError.
        target: gRPC target, for error messages.
        calls_max: Number of calls under way from which on queries wait.
    """

    def __init__(self, send: Callable[[SharedCall], Awaitable[Response]], target: str, calls_max: int) -> None:
        self._send, self._target = send, target
        self._line = Line[Response](calls_max)
        self._calls = dict[asyncio.Task[None], list[Asked[Response]]]()

    async def ask(self, kind: Kind, body: bytes, request_id: str, timeout_s: float) -> tuple[Response, int]:
        """Returns the response to a call that the query was in, and its position in it; see `Coalescer.ask`."""
        end_s = time.monotonic() + timeout_s
        leads = self._line.begin()
        if leads:
            is_alone = True
            try:
                await asyncio.sleep(0)  # whatever else is asked in this turn of the loop shares the call
                is_alone = self._line.is_empty
                if is_alone:
                    return await self._send(SharedCall(kind.header + body, 1, timeout_s, request_id, kind.may_wait)), 0
            finally:
                if is_alone:
                    self._pass_on(self._line.end())
        settled = asyncio.get_running_loop().create_future()
        asked = Asked[Response](kind, body, request_id, end_s, lambda: settled.done() or settled.set_result(None))
        if leads:
            self._start(self._line.take(asked, time.monotonic()))
        else:
            self._pass_on(self._line.enter(asked))
        loop = settled.get_loop()
        timers = (
            loop.call_later(PATIENCE_SHARE * timeout_s, self._insist, asked),
            loop.call_later(end_s - time.monotonic() + _GRACE_S, self._expire, asked),
        )
        try:
            await settled
        except asyncio.CancelledError:
            self._give_up(asked)
            raise
        finally:
            for timer in timers:
                timer.cancel()
        return asked.result()

    def _start(self, batch: list[Asked[Response]]) -> None:
        task = asyncio.get_running_loop().create_task(self._call(batch))
        self._calls[task] = batch
        task.add_done_callback(self._end)

    def _take_turn(self, asked: Asked[Response]) -> None:
        if not asked.is_gone:  # if it is, its turn has been passed on
            self._start(self._line.take(asked, time.monotonic()))

    async def _call(self, batch: list[Asked[Response]]) -> None:
        """Makes the call of a batch, and settles its queries."""
        try:
            outcome: Response | TwoTowerError = await self._send(_to_call(batch, self._target))
        except TwoTowerError as error:
            outcome = error
        self._line.settle(batch, outcome, time.monotonic())

    def _end(self, task: asyncio.Task[None]) -> None:
        """Ends the call of a task, even one cancelled before its first step; the next in line has its turn."""
        batch = self._calls.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:  # nobody waits any more, a bug, or the loop ends
            for each in batch:
                each.error = ServerError(f"a shared call failed in the client, which is a bug; report it: {error!r}")
                each.error.__cause__ = error
        self._pass_on(self._line.end(batch))
        for each in batch:
            if each.is_settled:
                each.wake()

    def _insist(self, asked: Asked[Response]) -> None:
        if self._line.insist(asked):
            self._take_turn(asked)

    def _expire(self, asked: Asked[Response]) -> None:
        asked.error = _late(asked, self._target)
        self._give_up(asked)
        asked.wake()

    def _give_up(self, asked: Asked[Response]) -> None:
        self._pass_on(self._line.leave(asked))
        for task, batch in list(self._calls.items()):
            if all(each.is_gone for each in batch):
                task.cancel()

    def _pass_on(self, following: Asked[Response] | None) -> None:
        if following is not None:
            asyncio.get_running_loop().call_soon(self._take_turn, following)
