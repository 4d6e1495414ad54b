"""What the clients of both services share: a channel, its credentials, deadlines and errors."""

import math
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import grpc

from two_tower_client.channel import Address, Connection, Tls, connect
from two_tower_client.errors import InvalidRequest
from two_tower_client.grpc_errors import our_errors

Request = TypeVar("Request")
Response = TypeVar("Response")

_CONNECTIONS_MAX = 64


class ConnectionOptions(TypedDict, total=False):
    """How to reach a service.

    Attributes:
        timeout_s: Seconds that a call may take where the call does not say otherwise. Default: 1.
        token: Sent as `authorization: Bearer <token>`. Default: none.
        token_file: File that holds the token, read once. Excludes `token`.
        tls: Secures the channel. Default: plain text.
        allow_plaintext_token: Send the token in plain text to other hosts than this one. Default: refuse.
        check_health: Make no call to a replica that says NOT_SERVING. Default: so.
        connections: To each address, 1 to 64; calls take them in turn. Default: 1. A service with several workers deals
            out connections to them, not calls, so one connection keeps one of them busy: take a few for each worker.
        own_connection: Share no connection with other clients in this process. Default: those of one address share
            one, unless they ask for several.
    """

    timeout_s: float
    token: str | None
    token_file: str | None
    tls: Tls | None
    allow_plaintext_token: bool
    check_health: bool
    connections: int
    own_connection: bool


class _Client:
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
        """The gRPC target that calls go to."""
        return self._connection.target

    def __repr__(self) -> str:
        """Returns the class and target; never the token."""
        return f"{type(self).__name__}({self.target!r})"

    def _call_options(self, timeout_s: float | None) -> dict[str, Any]:
        timeout_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        return {"timeout": timeout_s, "metadata": self._connection.metadata}


# The callables of gRPC take type arguments in its stubs alone, so their annotations are strings.


class Client(_Client):
    """A channel to one service, or several. Threads may share it; `close` once all are done."""

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
        with our_errors(self.target):
            return method(request, **options)

    def close(self) -> None:
        """Closes the channels, which cancels the calls in flight."""
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


class AsyncClient(_Client):
    """A channel to one service, or several, for asyncio. Create, use and close it within one running event loop."""

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
        with our_errors(self.target):
            return await method(request, **options)

    async def close(self) -> None:
        """Closes the channels, which cancels the calls in flight."""
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
    """Returns `timeout_s`.

    Raises:
        InvalidRequest: If it is not a positive number of seconds; without a deadline a call may hang for ever.
    """
    if not 0 < timeout_s < math.inf:
        raise InvalidRequest.in_field("timeout_s", f"has to be a positive number of seconds, got {timeout_s!r}")
    return timeout_s
