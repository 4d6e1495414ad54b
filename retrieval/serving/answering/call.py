"""A call that was received, and the interface of the methods that answer calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from retrieval.serving.answering.errors import DeadlinePassed, ServiceError
from retrieval.serving.answering.headers import Headers
from retrieval.steps import Steps

T = TypeVar("T")

SMALL_BYTES = 8192
"""Largest body of a call that may be answered by the event loop."""


class Method(Protocol):
    """A method of a service.

    Attributes:
        name: Name of the method, such as ``"SearchItems"``.
        max_shared: Largest number of calls that `answer` takes at once, at least 1.
        scope: Scope that a caller needs; see `retrieval.serving.runtime.credentials`.
        is_quick: Whether a call is answered at once, without waiting, whatever the load.
    """

    name: str
    max_shared: int
    scope: str
    is_quick: bool

    def is_short(self, call: Call) -> bool:
        """Returns whether a call most likely takes less than a millisecond. It is then answered by the event loop."""
        ...

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers calls in steps; in the end each of them has a response or an error. Never raises."""
        ...


@runtime_checkable
class PreparedMethod(Method, Protocol):
    """A method that has something to wait for, such as a database, before a call is queued for its work."""

    async def prepare(self, call: Call) -> bool:
        """Prepares a call in the event loop; it counts as in flight meanwhile.

        Returns:
            Whether `call.response` is final, so that nothing is left to do.

        Raises:
            ServiceError: the call has no response.
        """
        ...


@runtime_checkable
class StreamMethod(PreparedMethod, Protocol):
    """A method that takes a stream of messages. Each one is prepared as a call of its own, in order."""

    def join(self, first: bytes, second: bytes) -> bytes:
        """Returns one response for two: that of the messages so far, and that of the next message."""
        ...


@dataclass(eq=False, slots=True)
class Call:
    """A call whose message was received, and its outcome.

    Attributes:
        method: Method that was called.
        body: Serialized request.
        caller: Name of the caller, among whom time is shared.
        received_at: Time at which the message was received, or at which its preparation ended, in seconds of the
            monotonic clock.
        deadline: Time at which the caller gives up, in seconds of the monotonic clock; infinite without a deadline.
        answered: Future of the event loop, set once `response` or `error` is final.
        headers: Headers of the call, with its request id.
        has_left: Whether the caller cancelled, or the connection was lost.
        started_at: Time at which the work began, in seconds of the monotonic clock; 0 if it did not begin.
        work_s: Time that threads worked on the call, in seconds.
        size: Number of queries or searches; 0 if they were not read.
        model_version: Version of the model that answers; empty if none was picked.
        bundle_version: Version of the bundle that answers; empty if none was picked.
        earlier_bytes: Size of the messages of a stream before this one, in bytes.
        prepared: What the method prepared; None if it prepares nothing.
        prepared_bytes: Size of that, as far as it was fetched, in bytes.
        response: Serialized response.
        error: Reason for which there is no response; None if there is one.
    """

    method: Method
    body: bytes
    caller: str
    received_at: float
    deadline: float
    answered: asyncio.Future[None]
    headers: Headers = field(default_factory=lambda: Headers(()))
    has_left: bool = False
    started_at: float = 0.0
    work_s: float = 0.0
    size: int = 0
    model_version: str = ""
    bundle_version: str = ""
    earlier_bytes: int = 0
    prepared: Any = None
    prepared_bytes: int = 0
    response: bytes = b""
    error: Exception | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the caller still waits for the answer."""
        return not self.has_left and time.monotonic() < self.deadline

    def run(self, steps: Steps[T]) -> Steps[T | None]:
        """Runs steps of this call alone, and returns their result. Stops soon after the caller has left.

        Returns:
            Result of the steps; None if they raised, or the caller has left: `error` then has the reason.
        """
        try:
            while self.is_awaited:
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
                yield
            self.error = DeadlinePassed()
        except ServiceError as error:
            self.error = error.with_traceback(None)  # its frames would keep the bundle in memory after a swap
        except Exception as error:
            self.error = error
        finally:
            steps.close()
        return None


def run_together(calls: Sequence[Call], steps: Steps[T]) -> Steps[T | None]:
    """Runs steps that several calls share, and returns their result. Stops soon after the last caller has left.

    Returns:
        Result of the steps; None if all callers have left: each call then has an error.
    """
    try:
        while any(call.is_awaited for call in calls):
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            yield
    finally:
        steps.close()
    for call in calls:
        call.error = DeadlinePassed()
    return None
