"""Times side by side: every contender in every round, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call.

    Attributes:
        median: of all calls.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Shows the median and the quartiles."""
        return f"{self.median:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


def alternate(contenders: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, Timing]:
    """Returns the time of each contender, called with the number of the round; one round before is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run(max(number, 0))
            if number >= 0:
                times[name].append((time.perf_counter() - started) * 1e6)
    quartiles = {name: statistics.quantiles(of, n=4) for name, of in times.items()}
    return {name: Timing(of[1], of[0], of[2]) for name, of in quartiles.items()}


def spread(values: Sequence[float], form: str) -> str:
    """Shows the median of some rounds, and their range, each in a format such as ``.2f``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Prints a Markdown table, as docs/ takes it."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
