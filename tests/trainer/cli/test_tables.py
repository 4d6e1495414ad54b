"""Tables of the trainer fit a terminal, or are folded; no value is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trainer.cli.tables import Column, print_table

METRICS = ("recall\n@10", "recall\n@100", "ndcg\n@10", "ndcg\n@100", "mrr", "hr\n@10", "coverage\n@10")
METHODS = ("two-tower", "EASE with recency [bold]")


def printed(columns: list[Column], width: int | None) -> list[str]:
    """Returns the lines that a terminal of some width shows, or a pipe if it has none."""
    out = io.StringIO()
    target = Console(file=out, width=width, force_terminal=width is not None, no_color=True, soft_wrap=True)
    target._color_system = None  # no escape sequences
    print_table(target, "title " * 20, columns)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def evaluation() -> list[Column]:
    """Returns the columns of an evaluation, whose figures are all different: 0.1000, 0.1001, …"""
    figures = ([f"0.{1000 + 2 * column + row}" for row in range(2)] for column in range(len(METRICS)))
    return [Column("method", METHODS), *(Column(name, f, True) for name, f in zip(METRICS, figures, strict=True))]


@pytest.mark.parametrize("width", [None, 120, 80, 50, 38, 20])
def test_no_value_is_cut_at_any_width(width: int | None) -> None:
    lines = printed(evaluation(), width)
    text = " ".join(lines)
    assert [f"0.{1000 + number}" for number in range(14) if f"0.{1000 + number}" not in text] == []
    assert "EASE with recency [bold]" in text
    assert "…" not in text
    if width is not None and width >= 38:  # a method of 24 characters and a figure of 8, with the blanks
        assert max(len(line) for line in lines[1:]) <= width


def test_a_folded_table_repeats_its_first_column() -> None:
    assert [line.split() for line in printed(evaluation(), 51) if "two-tower" in line] == [
        ["two-tower", "0.1000", "0.1002", "0.1004"],
        ["two-tower", "0.1006", "0.1008", "0.1010"],
        ["two-tower", "0.1012"],
    ]
    assert sum("two-tower" in line for line in printed(evaluation(), None)) == 1


def test_a_table_of_one_column_is_printed() -> None:
    assert printed([Column("a", ["x"])], 40)[-2].split() == ["x"]
