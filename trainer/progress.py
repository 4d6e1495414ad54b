"""Progress of a training, with the time left."""

from __future__ import annotations

from typing import Any

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.console import console


class EpochProgress(keras.callbacks.Callback):
    """A bar over all steps with the time left, and a line for each epoch."""

    def __init__(self, epochs: int, steps: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=epochs * steps, loss=float("nan"))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Shows the bar."""
        self._progress.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        self._progress.update(self._task, advance=1, loss=float((logs or {}).get("loss", float("nan"))))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the epoch."""
        logs = logs or {}
        shown = "  ".join(f"{name} {logs[f'val_{name}']:.4f}" for name in ("ndcg@10", "recall@100"))
        self._progress.console.print(f"epoch {epoch + 1:>3}/{self._epochs}  loss {logs['loss']:.4f}  valid: {shown}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the bar away."""
        self.stop()

    def stop(self) -> None:
        """Gives the terminal back, also after an error."""
        self._progress.stop()
