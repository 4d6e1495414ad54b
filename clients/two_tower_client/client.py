"""What the clients of both services share: a channel, its credentials, deadlines and errors."""

import math
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import grpc

from two_tower_client.channel import Address, Connection, Tls, connect
from two_tower_client.errors import InvalidRequest
from two_tower_client.status import our_errors

Request = TypeVar("Request")
Response = TypeVar("Response")


class ConnectionOptions(TypedDict, total=False):
    """How to reach a service.

    Attributes:
        timeout_s: Seconds that a call may take where the call does not say otherwise. Default: 1.
        token: Sent as `authorization: Bearer <token>`. Default: none.
        token_file: File that holds the token, read once. Excludes `token`.
        tls: Secures the channel. Default: plain text.
        allow_plaintext_token: Send the token in plain text to other hosts than this one. Default: refuse.
        check_health: Make no call to a replica that says NOT_SERVING. Default: so.
    """

    timeout_s: float
    token: str | None
    token_file: str | None
    tls: Tls | None
    allow_plaintext_token: bool
    check_health: bool


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
    ) -> None:
        self._timeout_s = check_timeout(timeout_s)
        self._connection: Connection = connect(
            address,
            token=token,
            token_file=token_file,
            tls=tls,
            allow_plaintext_token=allow_plaintext_token,
            check_health=check_health,
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
    """A channel to one service. Threads may share it; `close` once all are done."""

    def _open(self) -> grpc.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        return self._channel

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        options = self._call_options(timeout_s)
        with our_errors(self.target):
            return method(request, **options)

    def close(self) -> None:
        """Closes the channel, which cancels the calls in flight."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channel."""
        self.close()


class AsyncClient(_Client):
    """A channel to one service for asyncio. Create, use and close it within one running event loop."""

    def _open(self) -> grpc.aio.Channel:
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        return self._channel

    async def _call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        options = self._call_options(timeout_s)
        with our_errors(self.target):
            return await method(request, **options)

    async def close(self) -> None:
        """Closes the channel, which cancels the calls in flight."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Returns the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channel."""
        await self.close()


def check_timeout(timeout_s: float) -> float:
    """Returns `timeout_s`.

    Raises:
        InvalidRequest: If it is not a positive number of seconds; without a deadline a call may hang for ever.
    """
    if not 0 < timeout_s < math.inf:
        raise InvalidRequest.in_field("timeout_s", f"has to be a positive number of seconds, got {timeout_s!r}")
    return timeout_s
