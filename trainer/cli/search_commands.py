"""``evaluate`` on graded queries."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow


def newest_run(folder: Path) -> Path:
    """Returns the newest finished run below a folder.

    Raises:
        RunError: there is none.
    """
    found = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(f"no finished run below {folder}; name the folder of one: evaluate RUN --qrels FILE")
    return found[-1].parent


def evaluate_graded(run: Path | None, qrels: Path, queries: Path | None, relevant_from: int) -> dict[str, Any]:
    """Evaluates a run on graded queries, prints the table, and returns the figures.

    Raises:
        TrainerError: a file or the run cannot be used.
    """
    from trainer.evaluation import graded_queries

    asked = graded_queries.read(qrels, queries, relevant_from)
    folder = run or newest_run(Path("runs"))
    import_tensorflow()
    from trainer.evaluation.search_evaluation import evaluate_search
    from trainer.training.run import Run

    progress = RichProgress()
    finished = Run.load(folder, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    with progress.working("answering graded queries"):
        found = evaluate_search(finished.model, data.dataset, asked, progress)
    print_search(found, f"{folder}: {found.query_count} graded queries of {qrels}")
    figures = dataclasses.asdict(found)
    (folder / "search.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return {"run": str(folder), **figures}


def print_search(found: Any, title: str) -> None:
    """Prints a `trainer.evaluation.search_evaluation.SearchEvaluation`."""
    table = Table(title=title, title_justify="left", box=console.box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for metric in next(iter(found.metrics.values())):
        # Never cut: the interval stands below the figure.
        table.add_column(metric.replace("@", "\n@"), justify="right", min_width=13)
    for method, metrics in found.metrics.items():
        cells = []
        for name, value in metrics.items():
            low, high = found.intervals[method][name]
            cells.append(f"{value:.4f}\n{low:.3f}, {high:.3f}")
        table.add_row(method, *cells)
    console.console.print(table)
    for method, others in found.differences.items():
        for other, metrics in others.items():
            mean, low, high = metrics["ndcg@10"]
            verdict = "beyond chance" if low > 0 or high < 0 else "within chance"
            console.console.print(
                f"ndcg@10 of {method} less {other}: {mean:+.4f} [{low:+.4f}, {high:+.4f}], {verdict}", highlight=False
            )
