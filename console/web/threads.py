"""Runs blocking calls of the store and of the services in a bounded number of threads, each for a bounded time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

_THREADS = 16
"""Most calls at once that somebody waits for; further ones wait for their turn."""

_HANGING_MAX = 64
"""Most calls that nobody waits for any longer, and that go on."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class TookTooLong(Exception):
    """A call did not end in time; its thread goes on until it does."""


class Threads:
    """Threads for calls of one kind. None of them keeps the process from ending. For use in one event loop.

    A call that hangs makes room for others once nobody waits for it. So pages answer again when what hung is back.
    """

    def __init__(self, what: str, timeout_s: float) -> None:
        """Takes what is called.

        Args:
            what: what is called, for people: "the store".
            timeout_s: time after which nobody waits for a call any longer, in seconds.
        """
        self._what = what
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(_THREADS)
        self._hanging: list[Future[Any]] = []

    async def run(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
    ) -> Result:
        """Returns what a function returns, or raises what it raises.

        Raises:
            TookTooLong: the function has not ended in time, or too many others hang.
        """
        self._hanging = [call for call in self._hanging if not call.done()]
        if len(self._hanging) >= _HANGING_MAX:
            raise TookTooLong(
                f"{_HANGING_MAX} calls of {self._what} hang: mend it; if it works again, restart the console"
            )
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit, self._free:
                call = _start(lambda: function(*arguments, **options))
                try:
                    return await asyncio.wrap_future(call)
                finally:
                    if not call.done():
                        self._hanging.append(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TookTooLong(f"no answer within {self._timeout_s:g} s: {self._what} hangs") from error


def _start(function: Callable[[], Result]) -> Future[Result]:
    """Calls a function in a thread of its own, which ends with the process at the latest."""
    call: Future[Result] = Future()
    call.set_running_or_notify_cancel()  # from here on nothing cancels it

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            call.set_exception(error)
        else:
            call.set_result(result)

    threading.Thread(target=work, name="console", daemon=True).start()
    return call
