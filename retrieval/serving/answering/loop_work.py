"""Work that has to be done in the event loop, in steps between which it receives and answers other calls."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from retrieval.steps import Steps

T = TypeVar("T")


class LoopWork:
    """Runs work in the event loop. Work of several steps is done one after another, so that all have their turn."""

    def __init__(self) -> None:
        """Starts without work."""
        self._turn = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """Runs steps to the end and returns their result. Work of one step is done at once."""
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        async with self._turn:
            while True:
                await asyncio.sleep(0)
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
