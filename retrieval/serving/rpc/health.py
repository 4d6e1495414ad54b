"""The standard health service, `grpc.health.v1`, and gRPC reflection. Both answer in the event loop, whatever the load.

The servicer of the package grpcio-health-checking says SERVING before a bundle is loaded; this one starts as
NOT_SERVING. Messages are decoded here, for the reason in `retrieval.serving.answering.wire`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from retrieval.serving.answering.error_status import status_of
from retrieval.serving.answering.errors import PermissionDenied, ServiceError, Unauthenticated
from retrieval.serving.answering.headers import Headers
from retrieval.serving.answering.wire import Undecodable, decode
from retrieval.serving.runtime.credentials import ADMIN, Tokens

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
LIVENESS = "liveness"
"""Service name whose health is SERVING for as long as the process answers, without a bundle and in a drain too.

For liveness probes: a replica that waits for a bundle must not be restarted.
"""
SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

MAX_WATCHES = 1000
"""Largest number of open watches; further ones get UNIMPLEMENTED, after which gRPC's clients call without watching."""

_RECEIVE_TIMEOUT_S = 5.0
_LARGEST_REQUEST = 1024

Context = grpc.aio.ServicerContext[Any, Any]


class Health(grpc.GenericRpcHandler):
    """Reports one status for all service names but `LIVENESS`; NOT_SERVING at first. To be used in one event loop."""

    def __init__(self, names: Sequence[str]) -> None:
        """Takes the full names of the services, and ``""`` for the server."""
        self._names = frozenset(names)
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()
        self._is_draining = self._is_closed = False
        self._watch_count = 0
        self._handlers = {
            f"/{SERVICE_NAME}/Check": grpc.stream_unary_rpc_method_handler(self._check),
            f"/{SERVICE_NAME}/Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a method of the health service; None for any other method."""
        return self._handlers.get(handler_call_details.method)

    def set_serving(self, serving: bool) -> None:
        """Sets the status to SERVING or NOT_SERVING; has no effect after `drain`."""
        if not self._is_draining:
            response = health_pb2.HealthCheckResponse
            self._status = response.SERVING if serving else response.NOT_SERVING
            self._wake()

    def drain(self) -> None:
        """Sets the status to NOT_SERVING for good."""
        self.set_serving(False)
        self._is_draining = True

    def close(self) -> None:
        """Ends all watches."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, _: Any, context: Context) -> bytes:
        service = await self._receive(context)
        status = self._current(service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()

    async def _watch(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        service = await self._receive(context)
        if self._watch_count >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "too many watches; ask Check instead")
        self._watch_count += 1
        try:
            sent: int | None = None
            while not (self._is_closed and sent == self._current(service)):
                changed = self._changed
                status = self._current(service)
                if status != sent:
                    sent = status
                    yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
                else:
                    await changed.wait()
        finally:
            self._watch_count -= 1

    async def _receive(self, context: Context) -> str:
        """Returns the service name of a request. Ends the call if the request is invalid or does not come."""
        try:
            async with asyncio.timeout(_RECEIVE_TIMEOUT_S):
                body = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no request within {_RECEIVE_TIMEOUT_S:g} s")
        if not isinstance(body, bytes) or len(body) > _LARGEST_REQUEST:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no request, or a longer one than any name needs")
        try:
            return decode(body, health_pb2.HealthCheckRequest).service
        except Undecodable as error:
            await _abort(context, error)
        raise AssertionError("abort returned")

    def _current(self, name: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        if name == LIVENESS:
            return health_pb2.HealthCheckResponse.SERVING
        return self._status if name in self._names else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Reflection(grpc.GenericRpcHandler):
    """Lists the services and their messages for tools. Needs a token with the scope admin, where tokens are needed."""

    def __init__(self, service_names: Sequence[str], tokens: Tokens) -> None:
        """Takes the full names of the services, and the tokens that calls may carry."""
        self._tokens = tokens
        self._servicer = reflection.aio.ReflectionServicer([*service_names, reflection.SERVICE_NAME])
        handler = grpc.stream_stream_rpc_method_handler(
            self._answer, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
        )
        # The messages of v1 are those of v1alpha, byte for byte; newer tools ask for v1 first.
        self._handlers = {
            f"/{service}/ServerReflectionInfo": handler for service in (reflection.SERVICE_NAME, _REFLECTION_V1)
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a reflection method; None for any other method."""
        return self._handlers.get(handler_call_details.method)

    async def _answer(self, bodies: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        sent = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), "")
        identity = self._tokens.identify(sent)
        if identity is None:
            await _abort(context, Unauthenticated())
        elif ADMIN not in identity.scopes:
            await _abort(context, PermissionDenied(ADMIN))

        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            async for body in bodies:
                try:
                    yield decode(body, reflection_pb2.ServerReflectionRequest)
                except Undecodable as error:
                    await _abort(context, error)

        responses: Any = self._servicer.ServerReflectionInfo(requests(), context)
        async for response in responses:
            yield response


async def _abort(context: Context, error: ServiceError) -> None:
    status = status_of(error, Headers.of(context).request_id)
    await context.abort(status.code, status.details, status.trailing_metadata)
