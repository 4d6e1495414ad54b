"""Runs blocking calls of the store and of the services in a bounded number of threads, each for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_THREADS = 16

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class TookTooLong(Exception):
    """A call did not end in time; its thread goes on until it does."""


class Threads:
    """A pool of threads."""

    def __init__(self, timeout_s: float) -> None:
        """Takes the time after which nobody waits for a call any longer, in seconds."""
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="console")

    async def run(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
    ) -> Result:
        """Returns what a function returns, or raises what it raises.

        Raises:
            TookTooLong: the function has not ended in time.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*arguments, **options))
        try:
            return await asyncio.wait_for(future, self._timeout_s)
        except TimeoutError as error:
            raise TookTooLong(f"no answer within {self._timeout_s:g} s: the store or a service hangs") from error

    def close(self) -> None:
        """Ends the threads that have no work; calls that wait for one are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)
