"""The headers of a call: request id, and trace context."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import grpc.aio

REQUEST_ID = "x-request-id"

_VALID_ID = re.compile(r"[!-~]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class Headers:
    """The metadata of a call. Request id and trace context are not looked for before they are needed.

    Attributes:
        metadata: Pairs of key and value, as the caller sent them.
    """

    __slots__ = ("_request_id", "metadata")

    def __init__(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Takes the metadata of a call."""
        self.metadata = metadata
        self._request_id = ""

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext[Any, Any]) -> Headers:
        """Returns the headers of a call."""
        return cls(tuple(context.invocation_metadata() or ()))

    def get(self, wanted: str) -> str:
        """Returns the value of a key, the last one if it was sent several times; empty if there is none."""
        return next((value for key, value in reversed(self.metadata) if key == wanted and isinstance(value, str)), "")

    @property
    def request_id(self) -> str:
        """Request id that the caller sent; a new one if there is none, or it is not valid.

        A valid one has 1 to 128 printable ASCII characters without blanks.
        """
        if not self._request_id:
            sent = self.get(REQUEST_ID)
            self._request_id = sent if _VALID_ID.fullmatch(sent) else os.urandom(16).hex()
        return self._request_id

    @property
    def trace_id(self) -> str:
        """Trace id of the W3C header `traceparent`, 32 hexadecimal digits; empty if there is none."""
        parts = _TRACE_PARENT.fullmatch(self.get("traceparent"))
        return parts[1] if parts else ""
