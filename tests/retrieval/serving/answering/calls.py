"""Calls for tests of waiting and running."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence

from retrieval.serving.answering.call import Call


class Recorder:
    """A method that takes a number of steps for each call, and records the body of the call at each step."""

    name = "Record"
    scope = "read"
    is_quick = False

    def __init__(self, step_s: float = 0.0, *, is_short: bool = False, max_shared: int = 1) -> None:
        self.seen: list[bytes] = []
        self.max_shared = max_shared
        self._step_s, self._is_short = step_s, is_short

    def is_short(self, call: Call) -> bool:
        return self._is_short

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        for call in calls:
            yield from call.run(self._work(call))

    def _work(self, call: Call) -> Iterator[None]:
        _, _, steps = call.body.partition(b":")
        for _ in range(int(steps or b"1")):
            self.seen.append(call.body)
            time.sleep(self._step_s)
            yield
        call.response = call.body


def call(
    method: Recorder, body: str = "x", caller: str = "a", *, age_s: float = 0.0, remaining_s: float = math.inf
) -> Call:
    """Returns a call that was received `age_s` seconds ago and that its caller gives up in `remaining_s` seconds."""
    now = time.monotonic()
    loop = asyncio.new_event_loop()
    try:
        return Call(method, body.encode(), caller, now - age_s, now + remaining_s, loop.create_future())
    finally:
        loop.close()
