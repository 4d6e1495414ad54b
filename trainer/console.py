"""What a person sees: notes and tables, all on stderr, so that stdout stays for ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.data import Dataset
from trainer.recipe import Recipe
from trainer.splits import Parts

if TYPE_CHECKING:  # evaluation imports tensorflow, which takes seconds that `promote` need not wait for
    from trainer.evaluation import Evaluation

console = Console(stderr=True, highlight=False, soft_wrap=True)
SHOWN_METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "coverage@10")


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
    table = _table(title)
    table.add_column("method", no_wrap=True)
    for name in SHOWN_METRICS:
        table.add_column(name.replace("@", "\n@"), justify="right", no_wrap=True)
    for method, metrics in evaluation.metrics.items():
        table.add_row(method, *(f"{metrics[name]:.4f}" for name in SHOWN_METRICS))
    console.print(table)
    console.print(
        f"{evaluation.user_count:,} users; {evaluation.cold_user_count:,} more have no known item and are left out. "
        f"{evaluation.repeat_share:.1%} of the test events repeat a known item and do not count; "
        f"{evaluation.cold_item_share:.1%} of the rest name an item without training events and do."
    )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table with the keys of the first row as its head."""
    table = _table(title)
    for name in rows[0]:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def fail(message: str) -> None:
    """Prints an error and leaves with code 1."""
    console.print(f"[red]error:[/red] {message}", markup=True)
    sys.exit(1)
