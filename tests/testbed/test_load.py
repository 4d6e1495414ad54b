"""Sending load at a steady rate."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from testbed.load import Load
from two_tower_client import Unavailable


class Refusing:
    """A retriever that refuses every request: the first one after a delay in seconds, all others at once.

    Attributes:
        moments: Arrival of each request, in seconds of the monotonic clock.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.moments: list[float] = []
        self._delay_s, self._lock = delay_s, threading.Lock()

    def retrieve(self, features: Any, k: int) -> Any:
        with self._lock:
            self.moments.append(time.monotonic())
            first = len(self.moments) == 1
        if first:
            time.sleep(self._delay_s)
        raise Unavailable("nobody answers")


def send(retriever: Any, *, clients: int, rate: float, count: int) -> Load:
    with Load(retriever, [{"age": 30}], pytest.fail, clients=clients, rate=rate) as load:
        while load.tally.sent < count:
            time.sleep(0.001)
    return load


def test_clients_share_a_steady_rate() -> None:
    retriever = Refusing()
    load = send(retriever, clients=4, rate=200.0, count=20)
    # 20 requests at 200 a second: the last of them is due 19 x 5 ms after the first; a busy machine takes longer.
    assert retriever.moments[19] - retriever.moments[0] >= 0.09
    assert load.tally.sent == load.tally.failed == len(retriever.moments)


def test_a_late_client_does_not_make_up_for_what_it_delayed() -> None:
    retriever = Refusing(delay_s=0.2)
    send(retriever, clients=1, rate=100.0, count=6)
    late, *others = (after - before for before, after in zip(retriever.moments, retriever.moments[1:], strict=False))
    assert late >= 0.2
    # The second request is sent at once, and then one is due every 10 ms: four more take 40 ms, not none.
    assert sum(others[:4]) >= 0.035
