"""What synchronous and asyncio clients have in common: their settings, and how a call begins, fails and ends."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from two_tower_client.errors import InvalidRequest, TwoTowerError
from two_tower_client.rpc.call import Call, check_timeout
from two_tower_client.rpc.call_metadata import check_request_id, check_user, make_request_id
from two_tower_client.rpc.channel import Address, Connection, Tls, connect
from two_tower_client.rpc.grpc_errors import from_rpc_error
from two_tower_client.rpc.line import CALLS_MAX, LIGHT_BYTES
from two_tower_client.rpc.retries import Retries

Response = TypeVar("Response")
Result = TypeVar("Result")

_CONNECTIONS_MAX = 64


class BaseClient:
    """The settings of a client, and what its calls have in common, synchronous or asyncio."""

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
        coalesce: bool | None = None,
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
        self._coalesces = self._connection.address_count is not None if coalesce is None else coalesce
        self._calls_max = CALLS_MAX * connections * (self._connection.address_count or 1)
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

    def _to_share(self, request: Message, request_id: str, user: str, share: bool | None) -> bytes | None:
        """Returns a serialized request of one query if its call may be shared, or None.

        Args:
            request: Request with the query alone, without model and bundle.
            request_id: Request id. Empty: a random one.
            user: Key of the user.
            share: What the caller says. None: not if there is a request id.
        """
        if not self._coalesces or user or not (share if share is not None else not request_id):
            return None
        if self._connection.metadata.is_sampled():
            return None
        body = request.SerializeToString()
        return body if len(body) <= LIGHT_BYTES else None

    def _check_arguments(self, request_id: str, timeout_s: float | None) -> tuple[str, float]:
        """Returns the request id and the timeout of a new call, each the default if it is not given.

        Raises:
            InvalidRequest: If an argument is invalid, or the client was made before this process was forked.
        """
        if os.getpid() != self._process:  # gRPC would hang, whatever the timeout
            raise InvalidRequest(
                f"this client was made in process {self._process}, which forked this one, {os.getpid()}; make a client "
                "in each process, and fork before the first call"
            )
        request_id = check_request_id(request_id) if request_id else make_request_id()
        return request_id, self._timeout_s if timeout_s is None else check_timeout(timeout_s)

    def _begin(self, timeout_s: float | None, request_id: str, user: str, *, may_wait: bool, traced: bool) -> Call:
        """Returns the state of a new call.

        Raises:
            InvalidRequest: If an argument is invalid, or the client was made before this process was forked.
            Overloaded: If the call is rejected locally.
        """
        request_id, timeout_s = self._check_arguments(request_id, timeout_s)
        metadata = self._connection.metadata.make(request_id, check_user(user), traced=traced)
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
