"""The base classes of the clients of both services: channels, credentials, deadlines and errors."""

import math
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import grpc

from two_tower_client.channel import Address, Connection, Tls, connect
from two_tower_client.errors import InvalidRequest
from two_tower_client.grpc_errors import mapped_errors

Request = TypeVar("Request")
Response = TypeVar("Response")

_CONNECTIONS_MAX = 64


class ConnectionOptions(TypedDict, total=False):
    """Settings of the connection to a service.

    Attributes:
        timeout_s: Seconds that a call may take, unless the call sets its own timeout. Default: 1.
        token: Bearer token, sent as `authorization: Bearer <token>`. Default: none.
        token_file: File with the bearer token, read once. Excludes `token`.
        tls: TLS settings. Default: plain text.
        allow_plaintext_token: Whether the token may be sent in plain text to another host. Default: False.
        check_health: Whether calls avoid replicas that report NOT_SERVING. Default: True.
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
    check_health: bool
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
        check_health: bool = True,
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
            check_health=check_health,
            shared=connections == 1 and not own_connection,
        )

    @property
    def target(self) -> str:
        """The gRPC target of this client."""
        return self._connection.target

    def __repr__(self) -> str:
        """Returns the class and the target, without the token."""
        return f"{type(self).__name__}({self.target!r})"

    def _call_options(self, timeout_s: float | None) -> dict[str, Any]:
        timeout_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        return {"timeout": timeout_s, "metadata": self._connection.metadata}


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
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        options = self._call_options(timeout_s)
        with mapped_errors(self.target):
            return method(request, **options)

    def close(self) -> None:
        """Closes the channels and cancels the calls in flight."""
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
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        options = self._call_options(timeout_s)
        with mapped_errors(self.target):
            return await method(request, **options)

    async def close(self) -> None:
        """Closes the channels and cancels the calls in flight."""
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


def check_timeout(timeout_s: float) -> float:
    """Returns `timeout_s` if it is valid. Every call needs a deadline, since without one it could wait for ever.

    Raises:
        InvalidRequest: If `timeout_s` is not a positive, finite number of seconds.
    """
    if not 0 < timeout_s < math.inf:
        raise InvalidRequest.in_field("timeout_s", f"has to be a positive number of seconds, got {timeout_s!r}")
    return timeout_s
