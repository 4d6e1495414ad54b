"""Progress over many texts, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.console import console

_WORTH_A_BAR = 2000
"""Fewer are done in a few seconds."""


@contextmanager
def text_progress(title: str, count: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar over `count` texts, where that is many; gives what to call with how many more are done."""
    if count < _WORTH_A_BAR:
        yield lambda _: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=count)
        yield lambda more: bar.update(task, advance=more)
