"""Load on a server, and CPU time of the server's process for each call."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import psutil

from benchmarks.timing import spread

CALLERS = 4
"""Default number of threads that send calls."""


@dataclass
class Series:
    """Measurements of one contender, one for each round.

    Attributes:
        cpu_us: CPU time of a call, in microseconds.
        rate: calls a second.
    """

    cpu_us: list[float] = field(default_factory=list[float])
    rate: list[float] = field(default_factory=list[float])

    def times(self, *parts: tuple[float, Series]) -> str:
        """Returns the ratio of this series to a weighted sum of others, as text: the median and the range.

        Ratios are taken within each round, since a shared host is faster in one round than in another.

        Args:
            parts: weight and series of each term; all series have the same rounds.
        """
        rounds = zip(*(series.cpu_us for _, series in parts), strict=True)
        whole = [sum(factor * us for (factor, _), us in zip(parts, each, strict=True)) for each in rounds]
        ratios = [own / other for own, other in zip(self.cpu_us, whole, strict=True)]
        return spread(ratios, ".2f")

    def show(self) -> str:
        """Returns the median and the range of the CPU time, as text."""
        return spread(self.cpu_us, ",.0f")


class Target:
    """A method of a server in another process, and the requests to send.

    Attributes:
        series: measurements so far.
    """

    def __init__(self, address: str, method: str, requests: Sequence[bytes], pid: int, callers: int = CALLERS) -> None:
        """Opens a channel. Requests and responses stay bytes, so that the load generator costs little.

        Args:
            address: address of the server.
            method: full name of the method, such as ``/package.Service/Method``.
            requests: serialized requests, sent in turn.
            pid: process whose CPU time is measured.
            callers: number of threads, each with one call at a time.
        """
        self.series = Series()
        self._process = psutil.Process(pid)
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 1 << 26)])
        self._call = self._channel.unary_unary(method)
        self._requests = requests
        self._callers = callers

    def measure(self, seconds: float) -> None:
        """Sends calls from all callers for `seconds`, and adds a round to the series."""
        self._send(0.2)
        before = self._cpu_s()
        calls, elapsed = self._send(seconds)
        self.series.cpu_us.append((self._cpu_s() - before) / calls * 1e6)
        self.series.rate.append(calls / elapsed)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _send(self, seconds: float) -> tuple[int, float]:
        counts = [0] * self._callers
        began = time.perf_counter()

        def call(caller: int) -> None:
            for request in itertools.cycle(self._requests):
                if counts[caller] and time.perf_counter() - began >= seconds:
                    return
                self._call(request, timeout=30)
                counts[caller] += 1

        threads = [threading.Thread(target=call, args=[caller]) for caller in range(self._callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts), time.perf_counter() - began


def measure_here(action: Callable[[int], object], seconds: float, series: Series) -> None:
    """Calls `action` with 0, 1, 2 and so on for `seconds`, at least once, and adds a round to the series.

    The round holds the CPU time of this thread. A first call, with 0, warms up and is not counted.
    """
    action(0)
    count, elapsed, began, cpu_began = 0, 0.0, time.perf_counter(), time.thread_time()
    while not count or elapsed < seconds:
        action(count)
        count += 1
        elapsed = time.perf_counter() - began
    series.cpu_us.append((time.thread_time() - cpu_began) / count * 1e6)
    series.rate.append(count / elapsed)


def one_core() -> contextlib.AbstractContextManager[None]:
    """Pins this thread, and the processes that it starts, to the first core as long as the context is open."""
    return _on({min(os.sched_getaffinity(0))})


def other_cores() -> contextlib.AbstractContextManager[None]:
    """Pins this thread, and the processes that it starts, to all cores but the first, if there are others."""
    allowed = os.sched_getaffinity(0)
    return _on(allowed - {min(allowed)} or allowed)


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
