"""Timing of contenders that run alternately, so that other load of the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Distribution of the times of many calls, in µs.

    Attributes:
        median: Median time.
        low: First quartile of the times.
        high: Third quartile of the times.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns the median and the quartiles as text."""
        return f"{self.median:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


def alternate(
    contenders: Mapping[str, Callable[[int], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Calls all contenders in each round, and returns the timing of each by name.

    One more round runs first, as a warm-up, and does not count.

    Args:
        contenders: functions by name; the argument of a call is the number of the round.
        rounds: number of rounds, at least 1.
        clock: function that returns the time in seconds. Default: the time that passes.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name, run in contenders.items():
            started = clock()
            run(max(number, 0))
            if number >= 0:
                times[name].append((clock() - started) * 1e6)
    quartiles = {name: statistics.quantiles(of, n=4) for name, of in times.items()}
    return {name: Timing(of[1], of[0], of[2]) for name, of in quartiles.items()}


def spread(values: Sequence[float], form: str) -> str:
    """Returns the median and the range of some values as text.

    Args:
        values: values, at least one.
        form: format of each number, for instance ``.2f``.
    """
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Prints a table in Markdown.

    Args:
        title: title above the table.
        head: cell of each column's head.
        rows: cells of each row.
    """
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
