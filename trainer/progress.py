"""Progress of a training, with the time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer import training
from trainer.console import console


def shown_metrics(metrics: Mapping[str, float]) -> str:
    """Returns what is shown of the metrics of the validation part."""
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in ("ndcg@10", "recall@100") if name in metrics)


class EpochProgress(training.Progress):
    """A bar over all steps with the time left, and a line for each epoch.

    Args:
        title: shown beside the bar.
    """

    def __init__(self, title: str = "training") -> None:
        self._epochs = 0
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=None, loss=float("nan"))

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Shows the bar."""
        self._epochs = epochs
        self._bar.update(self._task, total=epochs * steps, completed=done * steps)
        if done:
            console.print(f"resumed behind epoch {done} of {epochs}")
        self._bar.start()

    def step(self, loss: float) -> None:
        """Moves the bar."""
        self._bar.update(self._task, advance=1, loss=loss)

    def epoch(self, measured: dict[str, Any]) -> None:
        """Prints the epoch."""
        shown = shown_metrics({name.removeprefix("val_"): v for name, v in measured.items() if name.startswith("val_")})
        self._bar.console.print(
            f"epoch {measured['epoch']:>3}/{self._epochs}  loss {measured['loss']:.4f}  "
            + (f"valid: {shown}  " if shown else "")
            + f"{measured['examples_per_second']:,.0f} examples/s, {measured['input_wait_share']:.0%} waiting for input"
        )

    def stop(self) -> None:
        """Gives the terminal back, also after an error."""
        self._bar.stop()
