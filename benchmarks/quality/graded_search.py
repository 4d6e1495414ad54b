"""`make quality` of a recipe for search: trains it with several seeds, and judges it on graded queries.

Prints the towers beside BM25, the frozen encoder and the fused answer for each seed, and the mean over seeds. Exits
with 1 where the towers do not beat BM25 and the frozen encoder with an interval that excludes zero, in every seed.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from testbed.served_search import GRADED
from trainer.cli import console
from trainer.cli.graded_search_commands import print_search
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.recipe.recipe import Recipe


def measure(recipe: Recipe, name: str, catalogue: Path, seeds: int, out: Path | None) -> int:
    """Runs the measurement and returns the exit code.

    Args:
        recipe: of the towers.
        name: that it was asked for by.
        catalogue: Folder of the catalogue, with the graded queries.
        seeds: trainings, with seeds 1, 2, …
        out: file for all figures; None: none.

    Raises:
        TrainerError: the data cannot be used.
    """
    from trainer.evaluation import graded_queries
    from trainer.evaluation.search_evaluation import BM25, FROZEN, MODEL, evaluate_search
    from trainer.training.fit_and_refit import fit_and_choose

    queries = graded_queries.read(catalogue / GRADED, None)
    progress = RichProgress()
    folder = sources.data_folder(recipe, name, catalogue, progress=progress)
    data = sources.read(recipe, folder)
    console.print_data(recipe, data)
    found, seconds = [], []
    for seed in range(1, seeds + 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="two-tower-quality-") as run_folder:
            seeded = dataclasses.replace(recipe, seed=seed)
            run = fit_and_choose(seeded, folder, data, Path(run_folder), resume=False, progress=progress)
        seconds.append(time.monotonic() - began)
        found.append(evaluate_search(run.model, data.dataset, queries, progress))
        print_search(found[-1], f"{recipe.name}, seed {seed}: {found[-1].query_count} graded queries")
    names = list(found[0].metrics[MODEL])
    print(f"\n{recipe.name}, mean of {seeds} seeds\n\n| method | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for method in found[0].metrics:
        print(f"| {method} | {' | '.join(_cell([f.metrics[method][n] for f in found]) for n in names)} |")
    verdicts = [judge([f.differences[MODEL][other]["ndcg@10"] for f in found], other) for other in (BM25, FROZEN)]
    print()
    for passed, text in verdicts:
        print(f"{'ok    ' if passed else 'MISSED'}  {text}")
    print(f"training took {np.mean(seconds):.0f} s a seed")
    if out:
        figures: dict[str, Any] = {"found": [dataclasses.asdict(f) for f in found], "training_seconds": seconds}
        out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(passed for passed, _ in verdicts) else 1


def judge(differences: list[tuple[float, float, float]], other: str) -> tuple[bool, str]:
    """Returns whether a method is beaten beyond chance in every seed, and what to print of it."""
    low = min(low for _, low, _ in differences)
    mean = float(np.mean([mean for mean, _, _ in differences]))
    return low > 0, f"ndcg@10 {mean:+.4f} beside {other}: the paired 95 % interval begins at {low:+.4f}"


def _cell(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 and np.std(values) > 0 else ""
    return f"{np.mean(values):.4f}{spread}"
