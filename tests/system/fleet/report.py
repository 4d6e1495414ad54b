"""The table at the end of a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

_VERDICTS = {True: "ok", False: "BROKEN", None: "not judged"}
_HEAD = ("promise", "figure", "limit", "verdict")


@dataclass(frozen=True)
class Row:
    """A promise, and what was measured.

    Attributes:
        promise: What is promised.
        figure: What was measured, with its unit.
        limit: What keeps the promise.
        is_kept: Whether it is kept; None if it is not judged.
    """

    promise: str
    figure: str
    limit: str
    is_kept: bool | None


def to_table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    cells = [_HEAD, *((row.promise, row.figure, row.limit, _VERDICTS[row.is_kept]) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Returns the rows as JSON values."""
    return [asdict(row) for row in rows]
