"""The base classes of the clients of both services: channels, calls, retries, shared calls and closing."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

import grpc

from two_tower_client.errors import InvalidRequest
from two_tower_client.rpc.base_client import BaseClient
from two_tower_client.rpc.coalescing import AsyncCoalescer, Coalescer, SharedCall
from two_tower_client.rpc.hedging import first_answer, first_answer_async

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome")


def _closed_error() -> InvalidRequest:
    return InvalidRequest("the client is closed; make a new one")


def _sender(
    call: Callable[..., Outcome], methods: Iterable[object], read: Callable[[Response, int], Response]
) -> Callable[[SharedCall], Outcome]:
    """Returns the function that sends shared calls.

    Args:
        call: `_call` of a client.
        methods: The method to call, over each connection; calls use them in turn.
        read: See `ServiceClient._share`.
    """
    turns = itertools.cycle(methods)

    def send(shared: SharedCall) -> Outcome:
        def read_all(response: Response) -> Response:
            return read(response, shared.query_count)

        return call(
            next(turns),
            shared.body,
            read_all,
            shared.timeout_s,
            shared.request_id,
            may_wait=shared.may_wait,
            traced=shared.query_count == 1,
        )

    return send


# gRPC's callables are generic in its type stubs only, so their annotations below are strings.


class ServiceClient(BaseClient):
    """Base class of the synchronous clients. Threads may share a client. Close it after the last call."""

    def _open(self) -> list[grpc.Channel]:
        self._channels = [self._open_channel() for _ in range(self._connections)]
        return self._channels

    def _open_channel(self) -> grpc.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, credentials, options)

    def _share(
        self, method: str, decode: Callable[[bytes], Response], read: Callable[[Response, int], Response]
    ) -> Coalescer[Response]:
        """Returns what makes the shared calls of a method, after `_open`.

        Args:
            method: Path of the method.
            decode: Decodes a response.
            read: Returns a response if it has an answer for each of a number of queries, or raises a TwoTowerError.
        """
        methods = [channel.unary_unary(method, None, decode) for channel in self._channels]
        return Coalescer(_sender(self._call, methods, read), self.target, self._calls_max)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        read: Callable[[Response], Result],
        timeout_s: float | None,
        request_id: str = "",
        user: str = "",
        *,
        may_wait: bool = True,
        traced: bool = True,
        hedged: bool = True,
    ) -> Result:
        call = self._begin(timeout_s, request_id, user, may_wait=may_wait, traced=traced)
        while True:
            try:
                if hedged and self._connection.has_several_replicas:
                    response = first_answer(method, request, call, self._retries.hedge)
                else:
                    response = method(
                        request, timeout=call.remaining_s, metadata=call.metadata, wait_for_ready=call.waits
                    )
            except ValueError as error:  # another thread has closed the channel
                raise _closed_error() from error
            except grpc.RpcError as error:
                failure, pause_s = self._fail(call, error)
                if pause_s is None:
                    raise failure from error
                time.sleep(pause_s)
                if self._closed:
                    raise failure from error
                call.remaining_s -= pause_s
            else:
                return self._read(call, read, response)

    def close(self) -> None:
        """Closes the channels and cancels the calls in flight."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        self.close()


class AsyncServiceClient(BaseClient):
    """Base class of the asyncio clients. Create, use and close a client within one running event loop."""

    def _open(self) -> list[grpc.aio.Channel]:
        self._channels = [self._open_channel() for _ in range(self._connections)]
        return self._channels

    def _open_channel(self) -> grpc.aio.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)

    def _share(
        self, method: str, decode: Callable[[bytes], Response], read: Callable[[Response, int], Response]
    ) -> AsyncCoalescer[Response]:
        """Returns what makes the shared calls of a method; see `ServiceClient._share`."""
        methods = [channel.unary_unary(method, None, decode) for channel in self._channels]
        return AsyncCoalescer(_sender(self._call, methods, read), self.target, self._calls_max)

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        read: Callable[[Response], Result],
        timeout_s: float | None,
        request_id: str = "",
        user: str = "",
        *,
        may_wait: bool = True,
        traced: bool = True,
        hedged: bool = True,
    ) -> Result:
        call = self._begin(timeout_s, request_id, user, may_wait=may_wait, traced=traced)
        while True:
            try:
                if hedged and self._connection.has_several_replicas:
                    response = await first_answer_async(method, request, call, self._retries.hedge)
                else:
                    response = await method(
                        request, timeout=call.remaining_s, metadata=call.metadata, wait_for_ready=call.waits
                    )
            except grpc.aio.UsageError as error:  # another task has closed the channel
                raise _closed_error() from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._closed and not (task and task.cancelling()):  # `close` has cancelled the call, not the task
                    raise _closed_error() from None
                raise
            except grpc.RpcError as error:
                failure, pause_s = self._fail(call, error)
                if pause_s is None:
                    raise failure from error
                await asyncio.sleep(pause_s)
                if self._closed:
                    raise failure from error
                call.remaining_s -= pause_s
            else:
                return self._read(call, read, response)

    async def close(self) -> None:
        """Closes the channels and cancels the calls in flight."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        """Returns the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        await self.close()


def unread(response: Response) -> Response:
    """Returns the response itself, for methods whose response is the result."""
    return response
