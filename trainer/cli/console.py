"""Prints the results that a command is asked for on stdout, and all that it tells besides on stderr.

With ``--json`` stdout has the JSON alone, and the results for people are on stderr too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from retrieval.bundle.manifest import Manifest
from trainer.cli.tables import Column, print_table
from trainer.data.data_checks import MANY_REPEATS
from trainer.data.profile import Summary
from trainer.data.splits import Data
from trainer.recipe.recipe import Recipe

if TYPE_CHECKING:  # evaluation imports tensorflow, which takes seconds that `promote` need not wait for
    from trainer.evaluation.evaluate import Evaluation

# Without emoji: rich would print one for a ":x:" in a title, a path or an error.
console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Standard error: progress, notes, errors, and what a command that changes something has done."""


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        """Leaves the error to `trainer.__main__`, which exits with 141 as for JSON."""
        raise BrokenPipeError


_stdout = _Stdout(highlight=False, soft_wrap=True, emoji=False)

_DETAILED = ("ndcg@10", "recall@100")
SHOWN_METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "hr@10", "coverage@10")


def results(as_json: bool = False) -> Console:
    """Returns the console for what a command is asked for: stdout, or stderr if stdout is left to JSON."""
    return console if as_json else _stdout


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


def print_evaluation(evaluation: Evaluation, title: str, target: Console = console) -> None:
    """Prints the metrics of an evaluation as a table with a row for each method, headed by `title`."""
    counted = "repeats count" if evaluation.repeats else "novel items only"
    methods = evaluation.metrics
    print_table(
        target,
        f"{title}, {counted}; two-tower fitted on {evaluation.fitted_on}, all others on train + valid",
        [
            Column("method", list(methods)),
            *(_figures(name, [f"{metrics[name]:.4f}" for metrics in methods.values()]) for name in SHOWN_METRICS),
        ],
    )
    repeats = "count" if evaluation.repeats else "do not count"
    test_users = evaluation.user_count + evaluation.cold_user_count + evaluation.repeat_user_count
    drawn = f" (drawn from {evaluation.test_user_count:,})" if evaluation.test_user_count > test_users else ""
    reasons = {
        "had no interaction before the test": evaluation.cold_user_count,
        "interacted with known items only": 0 if evaluation.repeats else evaluation.repeat_user_count,
    }
    told = " and ".join(f"{count:,} that {why}" for why, count in reasons.items() if count)
    left_out = f"; left out are {told}" if told else ""
    target.print(
        f"{evaluation.user_count:,} of the {test_users:,} users of the test{drawn} are counted{left_out}. "
        f"{evaluation.repeat_share:.1%} of the test events repeat a known item and {repeats}; "
        f"{evaluation.cold_item_share:.1%} of the others are of an item without training events, and count."
    )
    if not evaluation.repeats and evaluation.repeat_share > MANY_REPEATS:
        target.print("note: most test events repeat a known item: split.repeats = true in the recipe counts them.")
    if evaluation.repeats and not evaluation.repeat_share:
        target.print(
            "note: repeats count, but no test event repeats a known item: are user and item the right columns?"
        )


def print_details(evaluation: Evaluation, target: Console = console) -> None:
    """Prints the details of an evaluation as tables.

    They are the bootstrap intervals, the differences of the model to the other methods, the metrics of slices, and the
    metrics of requests with only some of the features.
    """
    columns = [Column("method", list(evaluation.intervals))]
    for name in _DETAILED:
        shown = ("{:.4f} to {:.4f}".format(*intervals[name]) for intervals in evaluation.intervals.values())
        columns.append(Column(name, list(shown)))
    for name in _DETAILED:
        differences = (evaluation.differences.get(method, {}).get(name) for method in evaluation.intervals)
        shown = ("{:+.4f} [{:+.4f}, {:+.4f}]".format(*each) if each else "" for each in differences)
        columns.append(Column(f"minus method, {name}", list(shown)))
    print_table(target, "95 % intervals, bootstrap over users; and model minus method on the same users", columns)
    for title, groups in {
        **evaluation.slices,
        "the model, by the features that the caller sends": evaluation.inputs,
    }.items():
        columns = [Column("", list(groups))]
        for name in ("users", *SHOWN_METRICS):
            if any(name in metrics for metrics in groups.values()):
                form = "{:,.0f}" if name == "users" else "{:.4f}"
                columns.append(_figures(name, [form.format(metrics[name]) for metrics in groups.values()]))
        print_table(target, title, columns)


def _figures(name: str, cells: Sequence[str]) -> Column:
    return Column(name.replace("@", "\n@"), cells, is_figure=True)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], target: Console = console) -> None:
    """Prints a table headed by `title`, whose column names are the keys of the first row; None gives an empty cell."""
    names = {name: name.replace("@", "\n@").replace("_", "\n") for name in rows[0]}
    print_table(target, title, [Column(names[name], [_cell(row.get(name)) for row in rows]) for name in names])


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def print_gates(manifest: Manifest, *, explain: bool) -> None:
    """Prints the results of a bundle's publish gates as a table; with `explain` also the messages of failed gates."""
    gates = manifest.gates
    verdicts = [Text("passed") if gate.passed else Text("FAILED", style="bold red") for gate in gates.values()]
    print_table(
        console,
        "publish gates",
        [
            Column("gate", list(gates)),
            _figures("figure", [f"{gate.figure:.4f}" for gate in gates.values()]),
            _figures("threshold", [f"{gate.threshold:.4f}" for gate in gates.values()]),
            Column("", verdicts),
        ],
    )
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
    if c["lost_item_count"]:
        console.print(
            f"note: {c['lost_item_count']:,} of the {c['live_item_count']:,} items of the live bundle are not in the "
            f"new one, such as {escape(repr(c['lost_item']))}: this training's tables do not have them. If they were "
            "added with `add-items` and should stay, put them into the items table and train again, or add them to the "
            "new bundle with `add-items --bundle`."
        )


def fail(message: str) -> NoReturn:
    """Prints an error message on stderr and exits the program with code 1."""
    console.print(f"[red]error:[/red] {escape(message)}")
    sys.exit(1)
