"""The gRPC status that a caller gets for an error."""

from __future__ import annotations

from typing import Any

import grpc
from cachetools import LRUCache
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from retrieval.serving.answering.errors import Overloaded, ServiceError
from retrieval.serving.answering.headers import REQUEST_ID

_OVERLOADED: Any = LRUCache(256)
"""Statuses of recent refusals, by message and pause."""


def status_of(error: Exception, request_id: str) -> grpc.Status:
    """Returns the status that a caller gets for an error.

    Args:
        error: why the call has no response.
        request_id: request id of the call, which the caller finds in the details and in the trailing metadata.
    """
    if isinstance(error, Overloaded):
        sent = _overloaded(error)
        return sent._replace(trailing_metadata=(*sent.trailing_metadata, (REQUEST_ID, request_id)))
    if isinstance(error, ServiceError):
        status = status_pb2.Status(code=error.code, message=str(error), details=error.details())
    else:
        message = f"internal error; the log of the service has it, at request_id {request_id}"
        status = status_pb2.Status(code=code_pb2.INTERNAL, message=message)
    status.details.append(_pack(request_id))
    sent: Any = rpc_status.to_status(status)  # a named tuple, which its type does not say
    return sent._replace(trailing_metadata=(*sent.trailing_metadata, (REQUEST_ID, request_id)))


def _overloaded(error: Overloaded) -> Any:
    """Returns the status of a refusal without a request id. It is kept, because a refusal has to cost little."""
    key = (str(error), error.retry_after_s)
    sent = _OVERLOADED.get(key)
    if sent is None:
        made: Any = rpc_status.to_status(
            status_pb2.Status(code=error.code, message=str(error), details=error.details())
        )
        pushback = ("grpc-retry-pushback-ms", str(round(1000 * error.retry_after_s)))  # what gRPC's own retries obey
        sent = made._replace(trailing_metadata=(*made.trailing_metadata, pushback))
        _OVERLOADED[key] = sent
    return sent


def code_name(error: Exception | None) -> str:
    """Returns the name of the code that a caller gets, such as ``"INVALID_ARGUMENT"``; ``"OK"`` for None."""
    if error is None:
        return "OK"
    return code_pb2.Code.Name(error.code if isinstance(error, ServiceError) else code_pb2.INTERNAL)


def _pack(request_id: str) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return packed
