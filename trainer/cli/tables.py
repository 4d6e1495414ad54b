"""Tables that never cut a value: on a terminal that is too narrow, the columns are folded into several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Heading, of one or several lines.
        cells: [rows] texts, of one or several lines. They may hold any characters: nothing is read as markup.
        is_figure: Whether the cells are aligned to the right.
    """

    name: str
    cells: Sequence[str | Text]
    is_figure: bool = False

    @property
    def width(self) -> int:
        """Number of characters of the longest line."""
        lines = [line for cell in (self.name, *self.cells) for line in str(cell).splitlines()]
        return max(map(cell_len, lines), default=0)


def print_table(target: Console, title: str, columns: Sequence[Column]) -> None:
    """Prints a table. If a terminal is too narrow, further columns follow in tables below, each with the first column.

    Args:
        target: Console to print on.
        title: Line above the table.
        columns: Columns, at least one; all have equally many cells.
    """
    target.print(Text(title, style="italic"))
    for part in _fold(columns, target.width if target.is_terminal else None):
        # With this width rich neither cuts nor wraps a cell, as versions and figures have to be copied whole.
        table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), width=_width(part))
        for column in part:
            justify = "right" if column.is_figure else "left"
            table.add_column(Text(column.name), justify=justify, no_wrap=True, min_width=column.width)
        for row in zip(*(column.cells for column in part), strict=True):
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        target.print(table)


def _fold(columns: Sequence[Column], width: int | None) -> Iterator[Sequence[Column]]:
    """Yields groups of columns that fit into the width, each after the first column; one group if there is no width."""
    first, part = columns[0], list[Column]()
    for column in columns[1:]:
        if width is not None and part and _width([first, *part, column]) > width:
            yield [first, *part]
            part = []
        part.append(column)
    yield [first, *part]


def _width(columns: Sequence[Column]) -> int:
    """Returns the number of characters of a line: each column has two blanks, and the first has one more before it."""
    return 1 + sum(column.width + 2 for column in columns)
