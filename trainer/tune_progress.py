"""Progress of a search, with the time left of the trial that runs."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.console import console
from trainer.search_space import SearchSpace
from trainer.tuning import Tried, Watch


class TrialProgress(Watch):
    """A bar over the trials, one over the steps of the trial that runs, and a line for each that ended.

    Args:
        metric: that is searched by.
        space: of the recipes; a line names what a trial has other than its recipe.
    """

    def __init__(self, metric: str, space: SearchSpace) -> None:
        self._metric, self._space = metric, space
        self._own = space.settings(space.recipe.to_json())
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figure]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._all = self._bars.add_task("trials", total=None, figure="")
        self._one = self._bars.add_task("steps", total=None, figure="")

    def trial(self, number: int, finished: int, total: int) -> None:
        """Shows the bars."""
        self._bars.update(self._all, completed=finished, total=total)
        self._bars.reset(self._one, description=f"trial {number}", total=None, figure="")
        self._bars.start()

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Sets the bar of the trial."""
        self._bars.update(self._one, total=epochs * steps, completed=done * steps)

    def step(self, loss: float) -> None:
        """Moves it."""
        self._bars.update(self._one, advance=1)

    def epoch(self, measured: dict[str, Any]) -> None:
        """Shows the metric of the trial."""
        self._bars.update(self._one, figure=f"{self._metric} {measured[f'val_{self._metric}']:.4f}")

    def tried(self, tried: Tried, best: Tried | None) -> None:
        """Prints the trial."""
        if best is not None:
            self._bars.update(self._all, figure=f"best {best.value:.4f}")
        self._bars.update(self._all, advance=1)
        chosen = self._space.settings(tried.recipe)
        changed = [f"{name} {value}" for name, value in chosen.items() if value != self._own.get(name)]
        ended = f"given up: {tried.why}" if tried.value is None else f"{self._metric} {tried.value:.4f}"
        mark = "  best so far" if best is not None and best.number == tried.number else ""
        self._bars.console.print(
            f"trial {tried.number:>3}  {ended}  epochs {tried.epochs}, {tried.seconds:.0f} s{mark}\n"
            f"           {', '.join(changed) or 'the recipe as it is'}",
            markup=False,
        )

    def stop(self) -> None:
        """Gives the terminal back, also after an error."""
        self._bars.stop()
