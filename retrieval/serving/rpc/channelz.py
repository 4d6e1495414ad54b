"""The service `grpc.channelz.v1`, which shows the connections of this process. Only the admin port offers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory

from retrieval.serving.answering.call import Call, Method, decode
from retrieval.serving.answering.errors import InvalidRequest

SERVICE_NAME = "grpc.channelz.v1.Channelz"


class ChannelzMethod:
    """A method of channelz. It is answered at once and needs the scope admin.

    Attributes:
        name, max_shared, needs_admin, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    max_shared = 1
    needs_admin = True
    is_quick = True

    def __init__(self, method: Any, servicer: Any) -> None:
        """Takes the descriptor of the method, and the servicer of the package grpcio-channelz."""
        self.name = method.name
        self._request_class = message_factory.GetMessageClass(method.input_type)
        self._respond = getattr(servicer, method.name)

    def is_short(self, call: Call) -> bool:
        """Returns True."""
        return True

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers the calls; see `retrieval.serving.answering.call.Method.answer`."""
        for call in calls:
            try:
                call.response = self._answer(call)
            except Exception as error:
                call.error = error
            yield

    def _answer(self, call: Call) -> bytes:
        context = _Context()
        response = self._respond(decode(call.body, self._request_class), context)
        if context.code is grpc.StatusCode.NOT_FOUND:
            raise InvalidRequest([("", f"{context.details}; GetServers and GetTopChannels list what there is")])
        if response is None:
            raise RuntimeError(context.details)
        return response.SerializeToString()


class _Context:
    """The part of a servicer context that the servicer of grpcio-channelz uses."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def methods() -> list[Method]:
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
    made: list[Method] = [ChannelzMethod(method, servicer) for method in service.methods]
    return made
