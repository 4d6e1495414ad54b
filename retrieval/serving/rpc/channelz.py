"""The service `grpc.channelz.v1`, which shows the connections of this process. Only the admin port offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from retrieval.serving.answering.call import Method
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.quick_method import QuickMethod

SERVICE_NAME = "grpc.channelz.v1.Channelz"


def _method(method: Any, servicer: Any) -> QuickMethod:
    """Returns a method of channelz, from its descriptor and the servicer of the package grpcio-channelz."""

    def respond(request: Message) -> Message:
        context = _Context()
        response = getattr(servicer, method.name)(request, context)
        if context.code is grpc.StatusCode.NOT_FOUND:
            raise InvalidRequest([("", f"{context.details}; GetServers and GetTopChannels list what there is")])
        if response is None:
            raise RuntimeError(context.details)
        return response

    return QuickMethod(method.name, message_factory.GetMessageClass(method.input_type), respond)


class _Context:
    """The part of a servicer context that the servicer of grpcio-channelz uses."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def methods() -> Sequence[Method]:
    """Returns the methods of channelz.

    Raises:
        ValueError: the package grpcio-channelz is not installed.
    """
    try:
        from grpc_channelz.v1 import channelz, channelz_pb2
    except ImportError as error:
        raise ValueError(
            f"admin_port needs grpcio-channelz ({error}); install the extra: "
            "pip install 'two-tower-retrieval[telemetry]'"
        ) from error
    servicer: Any = channelz.ChannelzServicer()
    service: Any = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
    return [_method(method, servicer) for method in service.methods]
