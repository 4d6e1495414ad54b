"""Part of the command `evaluate` that evaluates a run on graded queries (`--qrels`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.cli.tables import Column, print_table
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow

if TYPE_CHECKING:  # it imports tensorflow, which takes seconds
    from trainer.evaluation.search_evaluation import SearchEvaluation


def newest_run(folder: Path) -> Path:
    """Returns the folder of the newest finished run among the subfolders of `folder`.

    Raises:
        RunError: There is no finished run.
    """
    runs = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise RunError(f"no finished run below {folder}; name the folder of one: evaluate RUN --qrels FILE")
    return runs[-1].parent


def evaluate_graded(
    run: Path | None, qrels: Path, queries: Path | None, relevant_from: int, target: Console
) -> dict[str, Any]:
    """Evaluates a run on graded queries, prints the metrics, and writes them to ``search.json`` in the run.

    Returns the content of ``search.json`` as plain values.

    Args:
        run: Folder of the run; None for the newest finished run in the folder ``runs``.
        qrels: CSV of graded queries, see `trainer.evaluation.graded_queries.read`.
        queries: CSV that lists the queries to evaluate; None for all.
        relevant_from: Lowest rating of a relevant item.
        target: Console to print the metrics on.

    Raises:
        TrainerError: A file or the run cannot be used.
    """
    from trainer.evaluation import graded_queries

    graded = graded_queries.read(qrels, queries, relevant_from)
    folder = run or newest_run(Path("runs"))
    import_tensorflow()
    from trainer.evaluation.search_evaluation import evaluate_search
    from trainer.training.saved_run import Run

    progress = RichProgress()
    finished = Run.load(folder, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    with progress.working("evaluating graded queries"):
        evaluation = evaluate_search(finished.model, data.dataset, graded, progress)
    print_search(evaluation, f"{folder}: {evaluation.query_count} graded queries of {qrels}", target)
    figures = dataclasses.asdict(evaluation)
    (folder / "search.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return {"run": str(folder), **figures}


def print_search(evaluation: SearchEvaluation, title: str, target: Console = console.console) -> None:
    """Prints the metrics of each method on graded queries, and the differences between methods."""
    columns = [Column("method", list(evaluation.metrics))]
    for name in next(iter(evaluation.metrics.values())):
        figures = (
            (metrics[name], *evaluation.intervals[method][name]) for method, metrics in evaluation.metrics.items()
        )
        cells = ["{:.4f}\n{:.3f}, {:.3f}".format(*each) for each in figures]  # the interval below the figure
        columns.append(Column(name.replace("@", "\n@"), cells, is_figure=True))
    print_table(target, title, columns)
    for method, others in evaluation.differences.items():
        for other, metrics in others.items():
            mean, low, high = metrics["ndcg@10"]
            verdict = "significant" if low > 0 or high < 0 else "not significant"
            target.print(
                f"ndcg@10 of {method} minus {other}: {mean:+.4f} [{low:+.4f}, {high:+.4f}], {verdict}", highlight=False
            )
