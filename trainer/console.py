"""What a person sees: progress with the time left, and tables. All of it on stderr, so that stdout stays for ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trainer.data import Dataset
from trainer.evaluation import Evaluation
from trainer.recipe import Recipe
from trainer.splits import Parts

console = Console(stderr=True, highlight=False)
SHOWN_METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "coverage@10")


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


def print_data(recipe: Recipe, dataset: Dataset, parts: Parts) -> None:
    """Prints what was read."""
    users, items, events = len(dataset.user_ids), len(dataset.items.ids), len(dataset.events)
    console.print(
        f"[bold]{recipe.name}[/bold]: {events:,} interactions, {users:,} users, {items:,} items, "
        f"density {len(dataset.events.pairs) / (users * items):.2%}"
    )
    console.print(
        f"split {recipe.split.kind}: {len(parts.train):,} train, {len(parts.valid):,} valid, {len(parts.test):,} test"
    )
    for note in dataset.notes:
        console.print(f"note: {note}")


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Prints metrics, a row for each method."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for name in SHOWN_METRICS:
        table.add_column(name, justify="right")
    for method, metrics in evaluation.metrics.items():
        table.add_row(method, *(f"{metrics[name]:.4f}" for name in SHOWN_METRICS))
    console.print(table)
    console.print(
        f"{evaluation.user_count:,} users; {evaluation.cold_user_count:,} more have no known item and are left out. "
        f"{evaluation.repeat_share:.1%} of the test events repeat a known item and do not count; "
        f"{evaluation.cold_item_share:.1%} of the rest name an item without training events and do."
    )


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table with the keys of the first row as its head."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def fail(message: str) -> None:
    """Prints an error and leaves with code 1."""
    console.print(f"[red]error:[/red] {message}", markup=True, soft_wrap=True)
    sys.exit(1)
