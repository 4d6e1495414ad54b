"""Times of contenders that take turns in every round, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Duration of one call, in microseconds.

    Attributes:
        median: median of all calls.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns the median and the quartiles as text."""
        return f"{self.median:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


def alternate(contenders: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, Timing]:
    """Returns the duration of each contender, called once a round with the number of the round.

    A first round warms up and is not counted.
    """
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
    """Returns the median and the range of `values` as text, in a format such as ``.2f``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Prints a Markdown table, which can be copied into docs/."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
