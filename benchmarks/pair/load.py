"""A closed loop of load, with the CPU time of load generator and services."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil

from benchmarks.timing import spread

Call = Callable[[int], object]
"""Sends one call; takes its number: 0, 1, 2 and so on."""


@dataclass(frozen=True)
class Round:
    """Figures of one round of load.

    Attributes:
        queries_per_s: answered queries a second.
        load_us: CPU time of the load generator for a query, in microseconds.
        served_us: CPU time of the services for a query, in microseconds; 0 without services.
    """

    queries_per_s: float
    load_us: float
    served_us: float


@dataclass
class Contender:
    """Something that answers queries, and its measured rounds.

    Attributes:
        name: name in the table.
        call: answers `queries_a_call` queries.
        queries_a_call: number of queries in a call, at least 1.
        callers: number of threads that call.
        recall: recall@100 of the answers.
        pids: process ids of the services; empty if the queries are answered in this process.
        rounds: figures of each round so far.
    """

    name: str
    call: Call
    queries_a_call: int
    callers: int
    recall: float
    pids: Sequence[int] = ()
    rounds: list[Round] = field(default_factory=list[Round])

    def measure(self, seconds: float) -> None:
        """Runs a closed loop for `seconds` and adds its round."""
        self.rounds.append(closed_loop(self.call, self.callers, seconds, self.queries_a_call, self.pids))

    @property
    def rate(self) -> float:
        """Queries a second: the median of the rounds."""
        return statistics.median(each.queries_per_s for each in self.rounds)

    @property
    def served_us(self) -> float:
        """CPU time of the services for a query, in microseconds: the median of the rounds."""
        return statistics.median(each.served_us for each in self.rounds)

    @property
    def cpu_us(self) -> float:
        """CPU time of services and load generator for a query, in microseconds: the median of the rounds."""
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
    """Returns a round in which each thread sends its next call once the last one is answered, and at least one."""
    end = time.perf_counter() + seconds

    def run(caller: int) -> int:
        calls = 0
        while not calls or time.perf_counter() < end:
            call(caller + calls * callers)
            calls += 1
        return calls

    served, began, cpu_began = _cpu_s(pids), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(callers) as pool:
        calls = sum(pool.map(run, range(callers)))
    elapsed, load, served = time.perf_counter() - began, time.process_time() - cpu_began, _cpu_s(pids) - served
    queries = calls * queries_a_call
    return Round(queries / elapsed, load / queries * 1e6, served / queries * 1e6)


def family(pid: int) -> list[int]:
    """Returns the ids of a process and of its children, such as the workers of a service."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _cpu_s(pids: Iterable[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
