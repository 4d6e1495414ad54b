"""Receives the calls of our services, has them answered, and counts them.

```
headers ─► token ─► room to receive? ─► message, within a time limit ─► runners ─► answer or error
```

Every method is registered as one that receives a stream of raw bytes and returns one message. A client cannot tell it
from a unary method. But nothing of a message is read before the headers were checked, a caller whose message does not
come costs a coroutine and no thread, and what cannot be decoded is refused by our own code.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from retrieval.serving.rpc.call import Call, Method, Undecodable
from retrieval.serving.rpc.call_metrics import CallMetrics
from retrieval.serving.rpc.errors import (
    NotReceived,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Stopping,
    Unauthenticated,
    status_of,
)
from retrieval.serving.rpc.runners import Runners
from retrieval.serving.runtime.credentials import ADMIN, READ, Tokens
from retrieval.serving.runtime.metrics import Metrics

MAX_RECEIVING = 2000
"""Largest number of calls whose messages have not arrived; beyond it, the one that has been silent longest is ended."""

_TICK_S = 0.005
_LONGEST_NAME = 64

_log = structlog.get_logger("calls")


class CallHandlers(grpc.GenericRpcHandler):
    """The handlers of the methods of one service. Used by one event loop."""

    def __init__(
        self,
        service_name: str,
        methods: Sequence[Method],
        runners: Runners,
        tokens: Tokens,
        metrics: Metrics,
        receive_timeout_s: float,
    ) -> None:
        """Takes the parts.

        Args:
            service_name: full name of the service.
            methods: methods of the service.
            runners: threads that answer.
            tokens: tokens that calls may carry.
            metrics: receives the outcome of every call.
            receive_timeout_s: time within which a message has to arrive, in seconds.
        """
        self._runners, self._tokens = runners, tokens
        self._receive_timeout_s = receive_timeout_s
        self._receiving: dict[asyncio.Task[Any], float] = {}
        self._refused: dict[asyncio.Task[Any], ServiceError] = {}
        self._metrics = metrics
        self._handlers = {
            f"/{service_name}/{method.name}": grpc.stream_unary_rpc_method_handler(self._make(method))
            for method in methods
        }
        metrics.receiving.set_function(lambda: self.receiving)

    @property
    def receiving(self) -> int:
        """Number of calls whose messages have not arrived."""
        return len(self._receiving)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a method; None if the service has no such method."""
        return self._handlers.get(handler_call_details.method)

    async def watch(self) -> None:
        """Ends calls that wait too long, until this coroutine is cancelled. To be run once."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._runners.expire()
            silent_since = time.monotonic() - self._receive_timeout_s
            while self._receiving and (oldest := next(iter(self._receiving.items())))[1] < silent_since:
                self._end_receiving(oldest[0], NotReceived(self._receive_timeout_s))

    def end_receiving(self) -> None:
        """Ends the calls whose messages have not arrived, because the service stops."""
        for task in list(self._receiving):
            self._end_receiving(task, Stopping())

    def _make(self, method: Method) -> Any:
        metrics = CallMetrics(method.name, self._metrics)

        async def handle(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            arrived_at = time.monotonic()
            remaining_s = _remaining_s(context)
            call: Call | None = None
            error: Exception | None = None
            try:
                caller = self._identify(method, context)
                body = await self._receive(context)
                call = await self._answer(method, body, caller, arrived_at + remaining_s)
                error = call.error
            except asyncio.CancelledError:
                metrics.left(call, arrived_at, passed=time.monotonic() >= arrived_at + remaining_s)
                raise
            except ServiceError as refusal:
                error = refusal
            metrics.done(call, arrived_at, error)
            if error is None:
                assert call is not None
                return call.response
            if not isinstance(error, ServiceError):
                _log.error("call failed unexpectedly", method=method.name, exc_info=error)
            status = status_of(error)
            await context.abort(status.code, status.details, status.trailing_metadata)
            raise AssertionError("abort returned")

        return handle

    def _identify(self, method: Method, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        """Returns the name of the caller, among whom time is shared.

        Raises:
            Unauthenticated: the call has no valid token.
            PermissionDenied: the token has not the scope that the method needs.
        """
        authorization: str | bytes = ""
        name = ""
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                authorization = value
            elif key == "two-tower-caller" and isinstance(value, str):
                name = value[:_LONGEST_NAME]
        identity = self._tokens.identify(authorization)
        if identity is None:
            raise Unauthenticated()
        scope = ADMIN if method.needs_admin else READ
        if scope not in identity.scopes:
            raise PermissionDenied(scope)
        return f"{identity.name}/{name or context.peer()}"

    async def _receive(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Returns the message of a call.

        Raises:
            Overloaded: too many calls wait for their messages, and this one has been silent longest.
            NotReceived: the message did not arrive in time.
            Undecodable: the caller sent no message.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._receiving) >= MAX_RECEIVING:
            oldest = next(iter(self._receiving))
            self._end_receiving(oldest, Overloaded(f"{MAX_RECEIVING} calls wait for their messages, that is the limit"))
        self._receiving[task] = time.monotonic()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if task in self._refused:
                raise self._refused.pop(task) from None
            raise
        finally:
            self._receiving.pop(task, None)
        if not isinstance(message, bytes):
            raise Undecodable("message", 0)
        return message

    def _end_receiving(self, task: asyncio.Task[Any], error: ServiceError) -> None:
        del self._receiving[task]
        self._refused[task] = error
        task.cancel()

    async def _answer(self, method: Method, body: bytes, caller: str, deadline: float) -> Call:
        loop = asyncio.get_running_loop()
        call = Call(method, body, caller, time.monotonic(), deadline, loop.create_future())
        if method.is_quick:
            for _ in method.answer([call]):
                pass
            return call
        self._runners.submit(call)
        try:
            await call.answered
        except asyncio.CancelledError:
            call.has_left = True
            raise
        return call


def _remaining_s(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the time until the deadline of a call, in seconds; infinite without a deadline."""
    remaining_s: Any = context.time_remaining()  # None without a deadline, whatever its type says
    return math.inf if remaining_s is None else remaining_s
