"""Prints notes and tables on stderr, so that stdout is left to ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retrieval.bundle.manifest import Manifest
from trainer.data.data_checks import MANY_REPEATS
from trainer.data.profile import Summary
from trainer.data.splits import Data
from trainer.recipe.recipe import Recipe

if TYPE_CHECKING:  # evaluation imports tensorflow, which takes seconds that `promote` need not wait for
    from trainer.evaluation.evaluate import Evaluation

# Without emoji: rich would print one for a ":x:" in a title, a path or an error.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_WIDTH = 8
"""Smallest width of a column of figures, so that a narrow terminal wraps the line and does not cut the figure."""

_DETAILED = ("ndcg@10", "recall@100")
SHOWN_METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "hr@10", "coverage@10")


def print_data(recipe: Recipe, data: Data) -> None:
    """Prints the size of a data set and its split, and notes on probable mistakes in the data."""
    summary = Summary.of(recipe, data)
    table = Table(
        title=f"data of {recipe.name}", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0)
    )
    for name, figures in summary.rows():
        table.add_row(name, figures)
    console.print(table)
    for note in summary.notes:
        console.print(f"note: {escape(note)}")


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Prints the metrics of an evaluation as a table with a row for each method, headed by `title`."""
    counted = "repeats count" if evaluation.repeats else "novel items only"
    table = _table(f"{title}, {counted}; two-tower fitted on {evaluation.fitted_on}, all others on train + valid")
    table.add_column("method", no_wrap=True, min_width=max(map(len, evaluation.metrics)))
    for name in SHOWN_METRICS:
        table.add_column(name.replace("@", "\n@"), justify="right", no_wrap=True, min_width=_WIDTH)
    for method, metrics in evaluation.metrics.items():
        table.add_row(method, *(f"{metrics[name]:.4f}" for name in SHOWN_METRICS))
    console.print(table)
    repeats = "count" if evaluation.repeats else "do not count"
    test_users = evaluation.user_count + evaluation.cold_user_count + evaluation.repeat_user_count
    drawn = f", drawn from {evaluation.test_user_count:,}" if evaluation.test_user_count > test_users else ""
    only_repeats = "" if evaluation.repeats else f", {evaluation.repeat_user_count:,} interacted with known items only"
    console.print(
        f"{evaluation.user_count:,} of the {test_users:,} users of the test{drawn}: {evaluation.cold_user_count:,} "
        f"more have no known item{only_repeats}; they are left out. "
        f"{evaluation.repeat_share:.1%} of the test events repeat a known item and {repeats}; "
        f"{evaluation.cold_item_share:.1%} of the others are of an item without training events, and count."
    )
    if not evaluation.repeats and evaluation.repeat_share > MANY_REPEATS:
        console.print("note: most test events repeat a known item: split.repeats = true in the recipe counts them.")
    if evaluation.repeats and not evaluation.repeat_share:
        console.print(
            "note: repeats count, but no test event repeats a known item: are user and item the right columns?"
        )


def print_details(evaluation: Evaluation) -> None:
    """Prints the details of an evaluation as tables.

    They are the bootstrap intervals, the differences of the model to the other methods, the metrics of slices, and the
    metrics of requests with only some of the features.
    """
    table = _table("95 % intervals, bootstrap over users; and model minus method on the same users")
    table.add_column("method", no_wrap=True, min_width=max(map(len, evaluation.intervals)))
    for name in (*_DETAILED, *(f"minus method, {name}" for name in _DETAILED)):
        table.add_column(name, no_wrap=True, min_width=26 if name.startswith("minus") else 16)
    for method, intervals in evaluation.intervals.items():
        differences = evaluation.differences.get(method, {})
        shown = [f"{intervals[name][0]:.4f} to {intervals[name][1]:.4f}" for name in _DETAILED]
        minus = [
            "{:+.4f} [{:+.4f}, {:+.4f}]".format(*differences[name]) if name in differences else "" for name in _DETAILED
        ]
        table.add_row(method, *shown, *minus)
    console.print(table)
    for title, groups in {
        **evaluation.slices,
        "the model, by the features that the caller sends": evaluation.inputs,
    }.items():
        table = _table(title)
        table.add_column("", no_wrap=True, min_width=max(len(group) for group in groups))
        names = [name for name in ("users", *SHOWN_METRICS) if any(name in metrics for metrics in groups.values())]
        for name in names:
            table.add_column(name.replace("@", "\n@"), justify="right", no_wrap=True, min_width=_WIDTH)
        for group, metrics in groups.items():
            table.add_row(group, *(f"{metrics[n]:,.0f}" if n == "users" else f"{metrics[n]:.4f}" for n in names))
        console.print(table)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table headed by `title`, whose column names are the keys of the first row; None gives an empty cell."""
    table = _table(title)
    for name in rows[0]:
        # A narrow terminal wraps the line and never cuts a cell: versions have to be copied whole.
        widest = max(len(_cell(row.get(name))) for row in rows)
        table.add_column(name.replace("@", "\n@").replace("_", "\n"), no_wrap=True, min_width=widest)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def print_gates(manifest: Manifest, *, explain: bool) -> None:
    """Prints the results of a bundle's publish gates as a table; with `explain` also the messages of failed gates."""
    table = _table("publish gates")
    for name, justify in (("gate", "left"), ("figure", "right"), ("threshold", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True)
    for name, result in manifest.gates.items():
        verdict = "passed" if result.passed else "[bold red]FAILED[/bold red]"
        table.add_row(name, f"{result.figure:.4f}", f"{result.threshold:.4f}", verdict)
    console.print(table)
    for name in manifest.failed_gates if explain else ():
        console.print(f"[red]{name}:[/red] {escape(manifest.gates[name].message)}")


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Prints the comparison of a new model with the live bundle as information; no gate depends on it.

    Args:
        comparison: Fields of `trainer.evaluation.comparison.Comparison` as plain values, by name.
    """
    c = comparison
    console.print(
        f"of {c['query_count']:,} held-out queries: {c['never_retrieved']:.1%} of the catalogue is in no top 100, mean "
        f"log popularity of the top 10 is {c['mean_log_popularity']:.3f} (the natural logarithm of 1 + the events of "
        "an item before the test; lower: less popular items)"
    )
    if c["not_comparable"]:
        console.print(f"not compared with {c['live'] or 'a live bundle'}: {escape(c['not_comparable'])}")
    else:
        console.print(
            f"compared with {c['live']}, which is live: overlap@10 {c['overlap_at_10']:.3f}, overlap@100 "
            f"{c['overlap_at_100']:.3f}; its mean log popularity is {c['live_mean_log_popularity']:.3f}"
        )


def fail(message: str) -> NoReturn:
    """Prints an error message on stderr and exits the program with code 1."""
    console.print(f"[red]error:[/red] {escape(message)}")
    sys.exit(1)
