"""Shows the progress of long work: bars on a terminal, and a line every 30 s in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer.cli import console
from trainer.progress import format_validation

if TYPE_CHECKING:  # these import optuna and tensorflow, which other commands need not wait for
    from trainer.tuning.recipe_search import Tried
    from trainer.tuning.search_space import SearchSpace

_WORTH_A_BAR = 2000
"""Smallest total that gets a bar; less work takes a few seconds."""


class RichProgress:
    """Implementation of `trainer.progress.Progress` for the command line.

    Args:
        target: Console to print on. Default: stderr.
        every_s: Seconds between two lines about the same work, if `target` is not a terminal.
    """

    def __init__(self, target: Console = console.console, every_s: float = 30.0) -> None:
        self._console, self._every_s = target, every_s

    def note(self, text: str) -> None:
        """Prints the sentence `text`."""
        self._console.print(text, markup=False)

    @contextmanager
    def working(self, title: str) -> Iterator[Callable[[str], None]]:
        """Shows a spinner with the name of the current step, which the caller sets by calling the yielded function."""
        began, shown = time.monotonic(), title
        with self._console.status(title) as status:

            def tell(step: str) -> None:
                nonlocal shown
                shown = f"{title}: {step}"
                status.update(shown)

            with self._lines(lambda: f"{shown}, {format_duration(time.monotonic() - began)} so far"):
                yield tell

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows a bar with the remaining time, unless `total` is small; the yielded function advances it."""
        if total < _WORTH_A_BAR:
            yield lambda more: None
            return
        with self._bars() as bars:
            task = bars.add_task(title, total=total, figure="")
            with self._lines(lambda: format_task(bars.tasks[0])):
                yield lambda more: bars.update(task, advance=more)

    @contextmanager
    def training(self, title: str) -> Iterator[EpochBar]:
        """Shows a bar over all steps of a training with the remaining time, and prints a line after each epoch."""
        with self._bars() as bars:
            shown = EpochBar(bars, bars.add_task(title, total=None, figure=""))
            with self._lines(lambda: format_task(bars.tasks[0])):
                yield shown

    @contextmanager
    def trials(self, metric: str, space: SearchSpace) -> Iterator[TrialBars]:
        """Shows a bar over the trials of a search and one over the steps of the running trial, and prints each trial.

        Args:
            metric: Name of the metric that the search maximises.
            space: Search space; the line of a trial names the settings that differ from its recipe.
        """
        with self._bars() as bars:
            shown = TrialBars(bars, metric, space)
            with self._lines(lambda: "; ".join(map(format_task, bars.tasks))):
                yield shown

    def _bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figure]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_interactive,
        )

    @contextmanager
    def _lines(self, line: Callable[[], str]) -> Iterator[None]:
        """Prints `line()` every `every_s` seconds, unless the target is a terminal, which shows bars."""
        if self._console.is_interactive:
            yield
            return
        done = threading.Event()

        def tell() -> None:
            while not done.wait(self._every_s):
                self._console.print(line(), markup=False)

        thread = threading.Thread(target=tell, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class EpochBar:
    """Implementation of `trainer.progress.TrainingProgress` that shows a bar for one training."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task, self._epochs = bars, task, 0
        self._losses, self._steps = 0.0, 0

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Sets the length of the bar to all steps, and its position to those of `done` epochs."""
        self._epochs = epochs
        self._bars.update(self._task, total=epochs * steps, completed=done * steps)
        if done:
            self._bars.console.print(f"resumed after epoch {done} of {epochs}")

    def step(self, loss: float) -> None:
        """Moves the bar by a step, and shows the mean loss of the epoch so far, as `epoch` shows that of the whole."""
        self._losses, self._steps = self._losses + loss, self._steps + 1
        self._bars.update(self._task, advance=1, figure=f"loss {self._losses / self._steps:.3f}")

    def epoch(self, measured: Mapping[str, Any]) -> None:
        """Prints a line with the measurements of the finished epoch."""
        self._losses, self._steps = 0.0, 0
        shown = format_validation(
            {name.removeprefix("val_"): v for name, v in measured.items() if name.startswith("val_")}
        )
        self._bars.console.print(
            f"epoch {measured['epoch']:>3}/{self._epochs}  loss {measured['loss']:.4f}  "
            + (f"valid: {shown}  " if shown else "")
            + f"{measured['examples_per_second']:,.0f} examples/s, {measured['input_wait_share']:.0%} waiting for input"
        )


class TrialBars:
    """Implementation of `trainer.tuning.recipe_search.SearchProgress` that shows bars for one search."""

    def __init__(self, bars: Progress, metric: str, space: SearchSpace) -> None:
        self._bars, self._metric, self._space = bars, metric, space
        self._own = space.settings(space.recipe.to_json())
        self._all = bars.add_task("trials", total=None, figure="")
        self._one = bars.add_task("steps", total=None, figure="")

    def trial(self, number: int, finished: int, total: int | None) -> None:
        """Resets the bar of the steps for a new trial."""
        self._bars.update(self._all, completed=finished, total=total)
        self._bars.reset(self._one, description=f"trial {number}", total=None, figure="")

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Sets the length of the running trial's bar to all of its steps."""
        self._bars.update(self._one, total=epochs * steps, completed=done * steps)

    def step(self, loss: float) -> None:
        """Moves the trial's bar by a step."""
        self._bars.update(self._one, advance=1)

    def epoch(self, measured: Mapping[str, Any]) -> None:
        """Shows the metric of the running trial next to its bar."""
        self._bars.update(self._one, figure=f"{self._metric} {measured[f'val_{self._metric}']:.4f}")

    def tried(self, tried: Tried, best: Tried | None) -> None:
        """Prints two lines about a finished trial: its result, and the settings that differ from the recipe."""
        if best is not None:
            self._bars.update(self._all, figure=f"best {best.value:.4f}")
        self._bars.update(self._all, advance=1)
        chosen = self._space.settings(tried.recipe)
        changed = [f"{name} {value}" for name, value in chosen.items() if value != self._own.get(name)]
        ended = f"pruned: {tried.why}" if tried.value is None else f"{self._metric} {tried.value:.4f}"
        mark = "  best so far" if best is not None and best.number == tried.number else ""
        self._bars.console.print(
            f"trial {tried.number:>3}  {ended}  epochs {tried.epochs}, {tried.seconds:.0f} s{mark}\n"
            f"           {', '.join(changed) or 'the recipe unchanged'}",
            markup=False,
        )


def format_task(task: Task) -> str:
    """Returns the progress of a task as text, such as ``embedding texts: 12,000 of 40,000 (30 %), 2 min left``."""
    if task.total is None:
        return f"{task.description}: preparing"
    parts = [f"{task.description}: {task.completed:,.0f} of {task.total:,.0f} ({task.percentage:.0f} %)"]
    if task.fields["figure"]:
        parts.append(task.fields["figure"])
    if task.time_remaining is not None:
        parts.append(f"{format_duration(task.time_remaining)} left")
    return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Returns a duration in seconds as text, such as ``45 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
