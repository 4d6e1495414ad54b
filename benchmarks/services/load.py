"""Sends load to a server, and measures the CPU time of the server's process."""

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
    """Measurements of one contender, one per round.

    Attributes:
        cpu_us: CPU time per call of each round, in µs.
        rate: Calls per second of each round.
    """

    cpu_us: list[float] = field(default_factory=list[float])
    rate: list[float] = field(default_factory=list[float])

    def times(self, *parts: tuple[float, Series]) -> str:
        """Returns, as text, the CPU time per call relative to a weighted sum of other series: median and range.

        The ratio is computed within each round, because a shared host is faster in one round than in another.

        Args:
            parts: pairs of a weight and a series of the same rounds.
        """
        rounds = zip(*(series.cpu_us for _, series in parts), strict=True)
        whole = [sum(factor * us for (factor, _), us in zip(parts, each, strict=True)) for each in rounds]
        ratios = [own / other for own, other in zip(self.cpu_us, whole, strict=True)]
        return spread(ratios, ".2f")

    def show(self) -> str:
        """Returns, as text, the median and the range over the rounds of the CPU time per call."""
        return spread(self.cpu_us, ",.0f")


class Target:
    """A method of a server in a process of its own, and the requests to send to it.

    Attributes:
        series: Measurements so far.
    """

    def __init__(self, address: str, method: str, requests: Sequence[bytes], pid: int, callers: int = CALLERS) -> None:
        """Connects to the server. Requests and responses stay bytes, so that sending load takes little CPU time.

        Args:
            address: address of the server.
            method: full name of the method, ``/package.Service/Method``.
            requests: serialized requests, which are sent in turn.
            pid: process id of the server, whose CPU time is measured.
            callers: number of threads, each of which has one call in flight.
        """
        self.series = Series()
        self._process = psutil.Process(pid)
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 1 << 26)])
        self._call = self._channel.unary_unary(method)
        self._requests = requests
        self._callers = callers

    def measure(self, seconds: float) -> None:
        """Sends calls from all callers for `seconds`, and adds a round to `series`."""
        self._send(0.2)
        before = self._cpu_s()
        calls, elapsed = self._send(seconds)
        self.series.cpu_us.append((self._cpu_s() - before) / calls * 1e6)
        self.series.rate.append(calls / elapsed)

    def close(self) -> None:
        """Closes the connection to the server."""
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
    """Calls `action` with 0, 1, 2 and so on for `seconds`, and adds a round with this thread's CPU time to `series`."""
    action(0)
    count, elapsed, began, cpu_began = 0, 0.0, time.perf_counter(), time.thread_time()
    while not count or elapsed < seconds:
        action(count)
        count += 1
        elapsed = time.perf_counter() - began
    series.cpu_us.append((time.thread_time() - cpu_began) / count * 1e6)
    series.rate.append(count / elapsed)


def one_core() -> contextlib.AbstractContextManager[None]:
    """Returns a context that pins this thread, and the processes that it starts, to the first core."""
    return _on({min(os.sched_getaffinity(0))})


def other_cores() -> contextlib.AbstractContextManager[None]:
    """Returns a context that pins this thread, and the processes that it starts, to all cores but the first.

    On a machine with one core it has no effect.
    """
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
