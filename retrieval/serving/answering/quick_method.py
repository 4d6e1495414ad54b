"""Methods that cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import Message

from retrieval.serving.answering.call import Call
from retrieval.serving.answering.wire import decode
from retrieval.serving.runtime.credentials import ADMIN


class QuickMethod:
    """A method whose calls are answered at once, without waiting, whatever the load. It needs the scope admin.

    Attributes:
        name, max_shared, scope, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    max_shared = 1
    scope = ADMIN
    is_quick = True

    def __init__(self, name: str, request_class: type[Message], respond: Callable[[Message], Message]) -> None:
        """Takes the name, the class of the request, and the function that makes the response."""
        self.name = name
        self._request_class = request_class
        self._respond = respond

    def is_short(self, call: Call) -> bool:
        """Returns True."""
        return True

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers the calls; see `retrieval.serving.answering.call.Method.answer`."""
        for call in calls:
            try:
                request = decode(call.body, self._request_class)
                call.response = self._respond(request).SerializeToString()
            except Exception as error:
                call.error = error
            yield
