"""Load on a pair of services, in a closed loop or on a schedule, with the CPU time of both sides."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import psutil

from bench.timing import spread

Call = Callable[[int], object]
"""Sends the call of a number: 0, 1, 2 and so on."""

Retrieve = Callable[[int, int], object]
"""Sends the call of a number, which asks for `k` items."""


@dataclass(frozen=True, eq=False)
class Round:
    """What a round of load saw.

    Attributes:
        queries_per_s: answered.
        latencies_ms: [calls], of each call; on a schedule from the moment it was due.
        load_us: CPU time of the load generator a query, in µs.
        served_us: CPU time of the services a query, in µs; 0 where there is no service.
    """

    queries_per_s: float
    latencies_ms: np.ndarray
    load_us: float
    served_us: float

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return float(np.percentile(self.latencies_ms, 50))

    @property
    def p99_ms(self) -> float:
        """The latency that one call in a hundred exceeds."""
        return float(np.percentile(self.latencies_ms, 99))


@dataclass
class Contender:
    """Something that answers queries, and the rounds so far.

    Attributes:
        name: for the table.
        call: answers `queries_a_call` queries.
        queries_a_call: at least 1.
        callers: threads that call.
        recall: of its answers.
        pids: of the services; none where it answers in this process.
    """

    name: str
    call: Call
    queries_a_call: int
    callers: int
    recall: float
    pids: Sequence[int] = ()
    rounds: list[Round] = field(default_factory=list[Round])

    def measure(self, seconds: float) -> None:
        """Adds a round of a closed loop."""
        self.rounds.append(closed_loop(self.call, self.callers, seconds, self.queries_a_call, self.pids))

    @property
    def rate(self) -> float:
        """Queries a second: the median of the rounds."""
        return statistics.median(each.queries_per_s for each in self.rounds)

    @property
    def served_us(self) -> float:
        """CPU time of the services a query, in µs: the median of the rounds."""
        return statistics.median(each.served_us for each in self.rounds)

    @property
    def cpu_us(self) -> float:
        """CPU time of services and load generator a query, in µs: the median of the rounds."""
        return statistics.median(each.served_us + each.load_us for each in self.rounds)

    def show(self) -> list[str]:
        """Returns the cells of a row: name, recall, rate and its range, CPU of services and load."""
        rates = [each.queries_per_s for each in self.rounds]
        return [
            self.name,
            f"{self.recall:.3f}",
            spread(rates, ",.0f"),
            f"{self.served_us:,.0f}" if self.pids else "",
            f"{self.cpu_us - self.served_us:,.0f}",
        ]


def closed_loop(call: Call, callers: int, seconds: float, queries_a_call: int = 1, pids: Sequence[int] = ()) -> Round:
    """Returns a round in which each of some threads sends the next call when the last one is answered; one at least."""
    end = time.perf_counter() + seconds

    def run(caller: int) -> list[float]:
        taken: list[float] = []
        number, began = caller, time.perf_counter()
        while not taken or began < end:
            call(number)
            number += callers
            now = time.perf_counter()
            taken.append(now - began)
            began = now
        return taken

    return _measure(run, callers, queries_a_call, pids)


def open_loop(call: Call, callers: int, due_s: np.ndarray, pids: Sequence[int] = ()) -> Round:
    """Returns a round of calls that are sent when they are due, whether or not others are answered.

    Args:
        call: to send.
        callers: threads; as many calls may be under way. More wait, and the wait counts as latency.
        due_s: [calls], ascending, seconds from now.
        pids: of the services.
    """
    began = time.perf_counter() + 0.05
    lock, due = threading.Lock(), iter(enumerate(due_s.tolist()))

    def run(_: int) -> list[float]:
        taken: list[float] = []
        while True:
            with lock:
                number, at = next(due, (-1, 0.0))
            if number < 0:
                return taken
            wait = began + at - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            call(number)
            taken.append(time.perf_counter() - began - at)

    return _measure(run, callers, 1, pids)


def schedule(rate: float, seconds: float, seed: int | None) -> np.ndarray:
    """Returns when calls are due: evenly, or, with a seed, at random as independent users send them (Poisson)."""
    count = max(1, round(rate * seconds))
    if seed is None:
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def family(pid: int) -> list[int]:
    """Returns a process and its children: a parent with its workers."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _measure(run: Callable[[int], list[float]], callers: int, queries_a_call: int, pids: Sequence[int]) -> Round:
    served, began, cpu_began = _cpu_s(pids), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(callers) as pool:
        taken = [latency for of in pool.map(run, range(callers)) for latency in of]
    elapsed, load, served = time.perf_counter() - began, time.process_time() - cpu_began, _cpu_s(pids) - served
    queries = len(taken) * queries_a_call
    return Round(queries / elapsed, np.array(taken) * 1e3, load / queries * 1e6, served / queries * 1e6)


def _cpu_s(pids: Iterable[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
