"""Receives the calls of our services, has them answered, and counts them.

```
headers ─► token ─► room to receive? ─► message, within a time limit ─► prepared ─► runners ─► answer or error
                                            ▲                              │
                                            └───── next one of a stream ◄──┘
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

from retrieval.serving.answering.call import Call, Method, PreparedMethod, StreamMethod
from retrieval.serving.answering.error_status import status_of
from retrieval.serving.answering.errors import (
    NotReceived,
    PermissionDenied,
    ServiceError,
    Stopping,
    Unauthenticated,
)
from retrieval.serving.answering.headers import Headers
from retrieval.serving.answering.runners import Runners
from retrieval.serving.answering.wire import Undecodable
from retrieval.serving.rpc.call_log import CallLog
from retrieval.serving.rpc.outcomes import Outcomes
from retrieval.serving.runtime.credentials import Tokens
from retrieval.serving.runtime.metrics import Metrics
from retrieval.serving.runtime.tracing import Tracer

MAX_RECEIVING = 2000
"""Largest number of calls whose messages have not arrived; beyond it, the one that has been silent longest is ended."""

_LONGEST_NAME = 64


class CallHandlers(grpc.GenericRpcHandler):
    """The handlers of the methods of one service. Used by one event loop."""

    def __init__(
        self,
        service_name: str,
        methods: Sequence[Method],
        runners: Runners,
        tokens: Tokens,
        metrics: Metrics,
        log: CallLog,
        receive_timeout_s: float,
        tracer: Tracer | None = None,
    ) -> None:
        """Takes the parts.

        Args:
            service_name: full name of the service.
            methods: methods of the service.
            runners: threads that answer.
            tokens: tokens that calls may carry.
            metrics: counts the outcome of every call.
            log: receives the outcome of every call.
            receive_timeout_s: time within which a message has to arrive, in seconds.
            tracer: records a span of every call that is traced; None: no call is traced.
        """
        self._runners, self._tokens = runners, tokens
        self._receive_timeout_s = receive_timeout_s
        self._receiving: dict[asyncio.Task[Any], float] = {}
        self._refused: dict[asyncio.Task[Any], ServiceError] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._ends_streams = False
        self._prepared: dict[Method, PreparedMethod] = {
            method: method for method in methods if isinstance(method, PreparedMethod)
        }
        self._streamed: dict[Method, StreamMethod] = {
            method: method for method in methods if isinstance(method, StreamMethod)
        }
        self._handlers = {
            f"/{service_name}/{method.name}": grpc.stream_unary_rpc_method_handler(
                self._make(method, Outcomes(service_name, method.name, metrics, log, tracer))
            )
            for method in methods
        }

    @property
    def receiving(self) -> int:
        """Number of calls whose messages have not arrived."""
        return len(self._receiving)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a method; None if the service has no such method."""
        return self._handlers.get(handler_call_details.method)

    def end_silent(self) -> None:
        """Ends the calls whose messages did not arrive in time. To be called every few milliseconds."""
        silent_since = time.monotonic() - self._receive_timeout_s
        while self._receiving and (oldest := next(iter(self._receiving.items())))[1] < silent_since:
            self._end_receiving(oldest[0], NotReceived(self._receive_timeout_s))

    def end_streams(self) -> None:
        """Ends the streams before their next message, because the service stops."""
        self._ends_streams = True
        for task in self._streams & self._receiving.keys():
            self._end_receiving(task, Stopping())

    def end_receiving(self) -> None:
        """Ends the calls whose messages have not arrived, because the service stops."""
        for task in list(self._receiving):
            self._end_receiving(task, Stopping())

    def _make(self, method: Method, outcomes: Outcomes) -> Any:
        async def handle(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            outcome = await self._handle(method, outcomes, context)
            if isinstance(outcome, bytes):
                return outcome
            # gRPC keeps this frame, by way of the exception of `abort`, until garbage is collected: it holds no body.
            await context.abort(outcome.code, outcome.details, outcome.trailing_metadata)
            raise AssertionError("abort returned")

        return handle

    async def _handle(
        self, method: Method, outcomes: Outcomes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bytes | grpc.Status:
        """Returns the serialized response to a call, or the status that its caller gets instead."""
        arrived_at = time.monotonic()
        deadline = arrived_at + _remaining_s(context)
        headers = Headers.of(context)
        caller = ""
        call: Call | None = None
        error: Exception | None = None
        try:
            caller = self._identify(method, headers, context)
            if not method.is_quick:
                self._runners.check_room(caller)
            body = await self._receive(context)
            answered = asyncio.get_running_loop().create_future()
            call = Call(method, body, caller, time.monotonic(), deadline, answered, headers)
            await self._answer(call)
            if method in self._streamed:
                call = await self._follow(call, self._streamed[method], context)
            error = call.error
        except asyncio.CancelledError:
            outcomes.left(headers, caller, call, arrived_at, passed=time.monotonic() >= deadline)
            raise
        except Exception as failure:
            error = failure.with_traceback(None) if isinstance(failure, ServiceError) else failure
        outcomes.done(headers, caller, call, arrived_at, error)
        if error is not None:
            return status_of(error, headers.request_id)
        assert call is not None
        return call.response

    def _identify(self, method: Method, headers: Headers, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        """Returns the name of the caller, among whom time is shared.

        Raises:
            Unauthenticated: the call has no valid token.
            PermissionDenied: the token lacks the scope that the method needs.
        """
        authorization: str | bytes = ""
        name = ""
        for key, value in headers.metadata:
            if key == "authorization":
                authorization = value
            elif key == "two-tower-caller" and isinstance(value, str):
                name = value[:_LONGEST_NAME]
        identity = self._tokens.identify(authorization)
        if identity is None:
            raise Unauthenticated()
        if method.scope not in identity.scopes:
            raise PermissionDenied(method.scope)
        return f"{identity.name}/{name or context.peer()}"

    async def _receive(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Returns the message of a call.

        Raises:
            Overloaded: too many calls wait for their messages, and this one has been silent longest.
            NotReceived: the message did not arrive in time.
            Undecodable: the caller sent no message.
        """
        message = await self._read(context)
        if message is None:
            raise Undecodable("no message")
        return message

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
        """Returns the next message of a call; None if the caller sends no further one. Raises as `_receive` does."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._receiving) >= MAX_RECEIVING:
            oldest = next(iter(self._receiving))
            fault = f"{MAX_RECEIVING} calls wait for their messages, that is the limit"
            self._end_receiving(oldest, self._runners.overloaded(fault))
        self._receiving[task] = time.monotonic()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if task in self._refused:
                raise self._refused.pop(task) from None
            raise
        finally:
            self._receiving.pop(task, None)
        return message if isinstance(message, bytes) else None

    async def _follow(self, call: Call, method: StreamMethod, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Answers the messages of a stream after the first one.

        Args:
            call: call of the first message, which is answered.
            method: method of the stream.
            context: context of the stream.

        Returns:
            Call of the last message, with the response to all of them, or an error.

        Raises:
            ServiceError: the stream has no response, for instance because its token is not valid any more.
        """
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            while call.error is None:
                if self._ends_streams:
                    raise Stopping()
                body = await self._read(context)
                if body is None:
                    break
                self._identify(method, call.headers, context)  # the token may have been revoked meanwhile
                answered = asyncio.get_running_loop().create_future()
                following = Call(method, body, call.caller, time.monotonic(), call.deadline, answered, call.headers)
                following.earlier_bytes = call.earlier_bytes + len(call.body)
                await self._answer(following)
                if following.error is None:
                    following.response = method.join(call.response, following.response)
                call = following
        finally:
            self._streams.discard(task)
        return call

    def _end_receiving(self, task: asyncio.Task[Any], error: ServiceError) -> None:
        del self._receiving[task]
        self._refused[task] = error
        task.cancel()

    async def _answer(self, call: Call) -> None:
        """Waits until a call is answered.

        Raises:
            Overloaded: too many calls are in flight.
            ServiceError: the preparation of the call failed.
        """
        if call.method.is_quick:
            for _ in call.method.answer([call]):
                pass
            return
        method = self._prepared.get(call.method)
        if method is None:
            self._runners.submit(call)
        else:
            self._runners.admit(call)
            try:
                is_final = await method.prepare(call)
            except BaseException:
                self._runners.release(call)
                raise
            if is_final or call.answered.done():  # the server may have stopped meanwhile
                self._runners.release(call)
                return
            call.received_at = time.monotonic()
            self._runners.queue(call)
        try:
            await call.answered
        except asyncio.CancelledError:
            call.has_left = True
            raise


def _remaining_s(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the time until the deadline of a call, in seconds; infinite without a deadline."""
    remaining_s: Any = context.time_remaining()  # None without a deadline, whatever its type says
    return math.inf if remaining_s is None else remaining_s
