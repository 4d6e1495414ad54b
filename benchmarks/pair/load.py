"""Sends load to both services in a closed loop, and measures the CPU time of load generator and services."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil

from benchmarks.timing import spread

Call = Callable[[int], object]
"""Function that makes one call; its argument is the number of the call, 0, 1, 2 and so on."""


@dataclass(frozen=True)
class Round:
    """Measurements of one round.

    Attributes:
        queries_per_s: Answered queries per second.
        load_us: CPU time of the load generator per query, in µs.
        served_us: CPU time of the services per query, in µs; 0 if the contender answers in this process.
    """

    queries_per_s: float
    load_us: float
    served_us: float


@dataclass
class Contender:
    """A system that answers queries, and its measurements.

    Attributes:
        name: Name in the table.
        call: Function that answers `queries_a_call` queries; its argument is the number of the call.
        queries_a_call: Number of queries per call, at least 1.
        callers: Number of threads that call.
        recall: Recall of its answers, 0 to 1.
        pids: Process ids of the services; empty if it answers in this process.
        rounds: Measurement of each round so far.
    """

    name: str
    call: Call
    queries_a_call: int
    callers: int
    recall: float
    pids: Sequence[int] = ()
    rounds: list[Round] = field(default_factory=list[Round])

    def measure(self, seconds: float) -> None:
        """Runs a closed loop for `seconds`, and adds its measurements to `rounds`."""
        self.rounds.append(closed_loop(self.call, self.callers, seconds, self.queries_a_call, self.pids))

    @property
    def rate(self) -> float:
        """Queries per second, as the median of the rounds."""
        return statistics.median(each.queries_per_s for each in self.rounds)

    @property
    def served_us(self) -> float:
        """CPU time of the services per query, in µs, as the median of the rounds."""
        return statistics.median(each.served_us for each in self.rounds)

    @property
    def cpu_us(self) -> float:
        """CPU time of services and load generator per query, in µs, as the median of the rounds."""
        return statistics.median(each.served_us + each.load_us for each in self.rounds)

    def show(self) -> list[str]:
        """Returns the cells of a table row: name, recall, queries per second with their range, and CPU times."""
        rates = [each.queries_per_s for each in self.rounds]
        return [
            self.name,
            f"{self.recall:.3f}",
            spread(rates, ",.0f"),
            f"{self.served_us:,.0f}" if self.pids else "",
            f"{self.cpu_us - self.served_us:,.0f}",
        ]


def closed_loop(call: Call, callers: int, seconds: float, queries_a_call: int = 1, pids: Sequence[int] = ()) -> Round:
    """Runs a closed loop, and returns its measurements.

    Each thread sends its next call when the previous one is answered, and makes at least one.

    Args:
        call: function that answers queries; its argument is the number of the call.
        callers: number of threads.
        seconds: length of the loop in seconds.
        queries_a_call: number of queries per call.
        pids: process ids of the services, whose CPU time is measured.
    """
    end = time.perf_counter() + seconds

    def run(caller: int) -> int:
        calls = 0
        while not calls or time.perf_counter() < end:
            call(caller + calls * callers)
            calls += 1
        return calls

    served, began, cpu_began = cpu_s(pids), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(callers) as pool:
        calls = sum(pool.map(run, range(callers)))
    elapsed, load, served = time.perf_counter() - began, time.process_time() - cpu_began, cpu_s(pids) - served
    queries = calls * queries_a_call
    return Round(queries / elapsed, load / queries * 1e6, served / queries * 1e6)


def family(pid: int) -> list[int]:
    """Returns the ids of a process and its children: a service and its workers."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_s(pids: Iterable[int]) -> float:
    """Returns the CPU time of processes so far, in seconds."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
