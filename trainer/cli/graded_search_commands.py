"""Part of the command `evaluate` that evaluates a run on graded queries (`--qrels`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
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


def evaluate_graded(run: Path | None, qrels: Path, queries: Path | None, relevant_from: int) -> dict[str, Any]:
    """Evaluates a run on graded queries, prints the metrics, and writes them to ``search.json`` in the run.

    Returns the content of ``search.json`` as plain values.

    Args:
        run: Folder of the run; None for the newest finished run in the folder ``runs``.
        qrels: CSV of graded queries, see `trainer.evaluation.graded_queries.read`.
        queries: CSV that lists the queries to evaluate; None for all.
        relevant_from: Lowest rating of a relevant item.

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
    print_search(evaluation, f"{folder}: {evaluation.query_count} graded queries of {qrels}")
    figures = dataclasses.asdict(evaluation)
    (folder / "search.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return {"run": str(folder), **figures}


def print_search(evaluation: SearchEvaluation, title: str) -> None:
    """Prints the metrics of each method on graded queries, and the differences between methods."""
    table = Table(title=title, title_justify="left", box=console.box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for metric in next(iter(evaluation.metrics.values())):
        # Wide enough for the interval, which is printed below the figure.
        table.add_column(metric.replace("@", "\n@"), justify="right", min_width=13)
    for method, metrics in evaluation.metrics.items():
        cells = []
        for name, value in metrics.items():
            low, high = evaluation.intervals[method][name]
            cells.append(f"{value:.4f}\n{low:.3f}, {high:.3f}")
        table.add_row(method, *cells)
    console.console.print(table)
    for method, others in evaluation.differences.items():
        for other, metrics in others.items():
            mean, low, high = metrics["ndcg@10"]
            verdict = "significant" if low > 0 or high < 0 else "not significant"
            console.console.print(
                f"ndcg@10 of {method} minus {other}: {mean:+.4f} [{low:+.4f}, {high:+.4f}], {verdict}", highlight=False
            )
