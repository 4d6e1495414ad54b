"""The table of promises: figures, limits and verdicts; only pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = ("promise", "figure", "limit", "verdict", "note")


@dataclass(frozen=True)
class Row:
    """One promise, and what was measured.

    Attributes:
        attack: Name of the attack.
        promise: What other callers were promised, as a noun phrase of the figure.
        figure: Measured value in `unit`. Infinity or NaN: the service gave no figure, for instance because it hung.
        limit: Largest value that keeps the promise, or the smallest if `is_floor`.
        unit: Unit of figure and limit, for instance ``ms``.
        is_floor: Whether the figure has to be at least the limit. Default: at most.
        note: What the reader has to know about the measurement, for instance the offered rate.
    """

    attack: str
    promise: str
    figure: float
    limit: float
    unit: str
    is_floor: bool = False
    note: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the promise is kept; False without a finite figure."""
        if not math.isfinite(self.figure):
            return False
        return self.figure >= self.limit if self.is_floor else self.figure <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON values; the figure is None if it is not finite."""
        return {
            "attack": self.attack,
            "promise": self.promise,
            "figure": self.figure if math.isfinite(self.figure) else None,
            "limit": self.limit,
            "unit": self.unit,
            "bound": "at least" if self.is_floor else "at most",
            "kept": self.is_kept,
            "note": self.note,
        }


def broken(attack: str, error: BaseException) -> Row:
    """Returns the row of an attack that could not be finished, because a service ended, hung or did not start.

    Args:
        attack: name of the attack.
        error: exception that ended it.
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Row(attack, "services that survive the attack", math.inf, 1.0, "", note=text[:160].replace("|", "/"))


def share(part: float, whole: float) -> float:
    """Returns `part` as a percentage of `whole`; NaN if `whole` is 0."""
    return 100.0 * part / whole if whole else math.nan


def tail_limit(alone: float, times: float, noise: float) -> float:
    """Returns the largest 99th percentile that is allowed under attack, in the unit of `alone`.

    Args:
        alone: 99th percentile without the attack.
        times: how many times as large it may become.
        noise: growth that is always allowed, because the 99th percentile of a millisecond varies by more than its half
            on a machine with other work.
    """
    return max(alone * times, alone + noise)


def to_table(rows: Sequence[Row], subject: str = "attack") -> str:
    """Returns the rows as a Markdown table, and the number of promises that were kept in a line below it.

    Args:
        rows: rows of the table.
        subject: head of the first column, which has the names of the attacks.
    """
    cells = [(subject, *_HEAD), *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    kept = sum(row.is_kept for row in rows)
    return "\n".join([*lines, "", f"{kept} of {len(rows)} promises kept, {len(rows) - kept} missed"])


def exit_code(rows: Sequence[Row]) -> int:
    """Returns 0 if there are rows and every promise is kept, else 1."""
    return 0 if rows and all(row.is_kept for row in rows) else 1


def _cells(row: Row) -> tuple[str, ...]:
    figure = f"{_number(row.figure)} {row.unit}".strip() if math.isfinite(row.figure) else "none"
    bound = "at least" if row.is_floor else "at most"
    limit = f"{bound} {_number(row.limit)} {row.unit}".strip()
    return row.attack, row.promise, figure, limit, "ok" if row.is_kept else "MISS", row.note


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
