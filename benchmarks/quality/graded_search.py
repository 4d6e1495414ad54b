"""`make quality` of a search recipe: trains it with several seeds, and evaluates each model on graded queries.

Prints the metrics of the towers, BM25, the frozen encoder and the fused ranking for each seed, and their means over
seeds. Exits with 1 unless, in every seed, the towers have a higher ndcg@10 than BM25 and than the frozen encoder, with
paired 95 % intervals of the differences above zero.
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
    """Runs the measurement, prints its tables, and returns the exit code: 0 if the towers beat both baselines, else 1.

    Args:
        recipe: recipe to train.
        name: name of the shipped recipe, or path of the TOML file, that `recipe` was read from.
        catalogue: folder of the product catalogue and the graded queries.
        seeds: number of trainings; their seeds are 1, 2, …
        out: JSON file to write all figures to; None: no file is written.

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
    """Returns whether the towers beat a baseline beyond chance in every seed, and a line to print about it.

    Args:
        differences: for each seed the difference in ndcg@10, towers minus baseline: mean, and lower and upper end of
            its paired 95 % interval.
        other: name of the baseline.
    """
    low = min(low for _, low, _ in differences)
    mean = float(np.mean([mean for mean, _, _ in differences]))
    return low > 0, f"ndcg@10 {mean:+.4f} beside {other}: the paired 95 % interval begins at {low:+.4f}"


def _cell(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 and np.std(values) > 0 else ""
    return f"{np.mean(values):.4f}{spread}"
