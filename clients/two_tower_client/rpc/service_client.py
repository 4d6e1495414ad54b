"""The base classes of the clients of both services: channels, credentials, deadlines, retries and errors."""

import asyncio
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypedDict, TypeVar

import grpc

from two_tower_client.errors import InvalidRequest, TwoTowerError
from two_tower_client.rpc.call import Call, check_timeout
from two_tower_client.rpc.call_metadata import check_request_id, check_user, make_request_id
from two_tower_client.rpc.channel import Address, Connection, Tls, connect
from two_tower_client.rpc.grpc_errors import from_rpc_error
from two_tower_client.rpc.hedging import first_answer, first_answer_async
from two_tower_client.rpc.retries import Retries

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")

_CONNECTIONS_MAX = 64


class ConnectionOptions(TypedDict, total=False):
    """Settings of the connection to a service.

    Attributes:
        timeout_s: Seconds that a call may take, unless the call sets its own timeout. Default: 1.
        token: Bearer token, sent as `authorization: Bearer <token>`. Default: none.
        token_file: File with the bearer token, read again when it changes. Excludes `token`.
        tls: TLS settings. Default: plain text.
        allow_plaintext_token: Whether the token may be sent in plain text to another host. Default: False.
        caller: Name of the calling program, 1 to 64 printable ASCII characters, sent as `two-tower-caller`. A service
            shares its time fairly among the callers that compete for it. Default: none.
        check_health: Whether calls avoid replicas that report NOT_SERVING. Default: True.
        adaptive_throttling: Whether the client rejects calls itself, as `Overloaded`, while a service refuses more than
            half of its calls; see `two_tower_client.rpc.retries.AdaptiveThrottle`. It saves the service the
            refusals, but goes on for some seconds after an overload, and does not tell cheap calls from expensive ones.
            Default: False.
        connections: Number of connections to each address, 1 to 64; calls use them in turn. Default: 1. Each connection
            leads to one worker process of a service, so a service with several workers needs several for each worker.
        own_connection: Whether this client keeps its connections to itself. Default: False: clients of the same address
            in this process share one connection, unless `connections` is above 1.
    """

    timeout_s: float
    token: str | None
    token_file: str | None
    tls: Tls | None
    allow_plaintext_token: bool
    caller: str
    check_health: bool
    adaptive_throttling: bool
    connections: int
    own_connection: bool


class _ServiceClient:
    """The settings of a client, synchronous or asyncio."""

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float = 1.0,
        token: str | None = None,
        token_file: str | None = None,
        tls: Tls | None = None,
        allow_plaintext_token: bool = False,
        caller: str = "",
        check_health: bool = True,
        adaptive_throttling: bool = False,
        connections: int = 1,
        own_connection: bool = False,
    ) -> None:
        if not 1 <= connections <= _CONNECTIONS_MAX:
            raise InvalidRequest.in_field("connections", f"has to be 1 to {_CONNECTIONS_MAX}, got {connections!r}")
        self._timeout_s = check_timeout(timeout_s)
        self._connections = connections
        self._connection: Connection = connect(
            address,
            token=token,
            token_file=token_file,
            tls=tls,
            allow_plaintext_token=allow_plaintext_token,
            caller=caller,
            check_health=check_health,
            shared=connections == 1 and not own_connection,
        )
        self._retries = Retries(throttled=adaptive_throttling)
        self._closed = False
        self._process = os.getpid()

    @property
    def target(self) -> str:
        """The gRPC target of this client."""
        return self._connection.target

    def __repr__(self) -> str:
        """Returns the class and the target, without the token."""
        return f"{type(self).__name__}({self.target!r})"

    def _begin(self, timeout_s: float | None, request_id: str, user: str, *, may_wait: bool) -> Call:
        """Returns the state of a new call.

        Raises:
            InvalidRequest: If an argument is invalid, or the client was made before this process was forked.
            Overloaded: If the call is rejected locally.
        """
        if os.getpid() != self._process:  # gRPC would hang, whatever the timeout
            raise InvalidRequest(
                f"this client was made in process {self._process}, which forked this one, {os.getpid()}; make a client "
                "in each process, and fork before the first call"
            )
        request_id = check_request_id(request_id) if request_id else make_request_id()
        metadata = self._connection.metadata.make(request_id, check_user(user))
        timeout_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        try:
            self._retries.admit(self.target)
        except TwoTowerError as error:
            error.request_id = request_id
            raise
        return Call(request_id, metadata, timeout_s, may_wait=may_wait)

    def _fail(self, call: Call, error: grpc.RpcError) -> tuple[TwoTowerError, float | None]:
        """Returns the error of a failed attempt, and the seconds before the next one; None if there is none."""
        failure = from_rpc_error(error, self.target)
        if call.waits and call.last_error is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            failure = call.last_error  # says more: most likely, nothing could be reached until the deadline
        failure.request_id = call.request_id
        call.last_error = failure
        call.waits = call.may_wait and error.code() is grpc.StatusCode.UNAVAILABLE
        call.attempts += 1
        call.remaining_s = call.end_s - time.monotonic()
        if self._closed:  # closing the client has cancelled the call
            return failure, None
        return failure, self._retries.failed(
            failure, error.code(), attempts=call.attempts, remaining_s=call.remaining_s
        )

    def _read(self, call: Call, read: Callable[[Response], Result], response: Response) -> Result:
        self._retries.succeeded()
        try:
            return read(response)
        except TwoTowerError as error:  # the response breaks the contract
            error.request_id = call.request_id
            raise


def _closed_error() -> InvalidRequest:
    return InvalidRequest("the client is closed; make a new one")


# gRPC's callables are generic in its type stubs only, so their annotations below are strings.


class ServiceClient(_ServiceClient):
    """Base class of the synchronous clients. Threads may share a client. Close it after the last call."""

    def _open(self) -> list[grpc.Channel]:
        self._channels = [self._open_channel() for _ in range(self._connections)]
        return self._channels

    def _open_channel(self) -> grpc.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, credentials, options)

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
    ) -> Result:
        call = self._begin(timeout_s, request_id, user, may_wait=may_wait)
        while True:
            try:
                if self._connection.has_several_replicas:
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


class AsyncServiceClient(_ServiceClient):
    """Base class of the asyncio clients. Create, use and close a client within one running event loop."""

    def _open(self) -> list[grpc.aio.Channel]:
        self._channels = [self._open_channel() for _ in range(self._connections)]
        return self._channels

    def _open_channel(self) -> grpc.aio.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)

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
    ) -> Result:
        call = self._begin(timeout_s, request_id, user, may_wait=may_wait)
        while True:
            try:
                if self._connection.has_several_replicas:
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
