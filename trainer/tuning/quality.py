"""Trains a recipe with several seeds, and evaluates every training beside all baselines on the same split."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.splits import Data
from trainer.evaluation.baselines import fit_wanted
from trainer.evaluation.evaluate import MODEL, Evaluation, evaluate_test
from trainer.evaluation.metrics import Scorer
from trainer.progress import SILENT, Progress
from trainer.recipe.recipe import Recipe
from trainer.training.fit_and_refit import fit_and_choose

SHOWN = ("hr@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "coverage@10")
TRAIN_ONLY = "two-tower, fitted on train only"

Rows = Mapping[str, Mapping[str, tuple[float, float]]]
"""Mean and standard deviation over seeds of each metric, by method, then metric."""


@dataclass
class Protocol:
    """An evaluation protocol of the test part, and its results.

    Attributes:
        repeats: Whether items that the user has interacted with before are ranked and count as relevant.
        others: Baselines by name.
        found: Evaluations of the final models, one for each seed.
        train_only: Evaluation, for each seed, of the model fitted on the training part only; empty if the recipe does
            not refit on training and validation together.
    """

    repeats: bool
    others: dict[str, Scorer] = field(default_factory=dict)
    found: list[Evaluation] = field(default_factory=list)
    train_only: list[Evaluation] = field(default_factory=list)

    def __str__(self) -> str:
        """Returns which items the protocol ranks, in words."""
        return "all items, known ones too" if self.repeats else "new items"

    def title(self, recipe: Recipe) -> str:
        """Returns a title for the table of the results."""
        fitted_on = f"two-tower fitted on {self.found[0].fitted_on}, all others on train + valid"
        return f"{recipe.name}, {recipe.split.kind}, {self}; {fitted_on}; seeds: {len(self.found)}"

    def rows(self) -> Rows:
        """Returns the metrics over all seeds."""
        return rows_of(self.found, self.train_only)

    def to_json(self) -> dict[str, Any]:
        """Returns all evaluations as values that `json.dumps` takes."""
        figures = {"fitted": self.found, "fitted_on_train": self.train_only}
        return {name: [dataclasses.asdict(e) for e in evaluations] for name, evaluations in figures.items()}


def measure(
    recipe: Recipe,
    folder: Path,
    data: Data,
    seeds: int,
    *,
    both: bool = False,
    refit_only: bool = False,
    baselines: bool = True,
    progress: Progress = SILENT,
) -> tuple[list[Protocol], list[float]]:
    """Returns the results of a recipe with the seeds 1, 2, …, and the seconds of each training.

    Args:
        recipe: Recipe to train.
        folder: Folder that the recipe's paths are relative to.
        data: Data set and its split.
        seeds: Number of trainings.
        both: Whether to evaluate with and without known items in the ranking; the recipe's own protocol is the first.
        refit_only: See `fit_and_choose`.
        baselines: Whether to compare with all baselines, and not with popularity and those of the gates alone.
        progress: Receives progress and notes.
    """
    protocols = [Protocol(repeats) for repeats in (recipe.split.repeats, not recipe.split.repeats)[: 1 + both]]
    for protocol in protocols:
        protocol.others.update(fit_wanted(recipe, data, protocol.repeats, progress, wanted=baselines))
    seconds: list[float] = []
    for seed in range(1, seeds + 1):
        seeded = dataclasses.replace(recipe, seed=seed)
        with tempfile.TemporaryDirectory(prefix="two-tower-quality-") as run_folder:
            began = time.monotonic()
            run = fit_and_choose(
                seeded, folder, data, Path(run_folder), resume=False, refit_only=refit_only, progress=progress
            )
            seconds.append(time.monotonic() - began)
        for protocol in protocols:
            options = {"repeats": protocol.repeats, "others": protocol.others}
            protocol.found.append(evaluate_test(run.model, data, refitted=run.refitted, **options))
            if run.before_refit is not None:
                protocol.train_only.append(evaluate_test(run.before_refit, data, **options))
            metrics = protocol.found[-1].metrics[MODEL]
            figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in ("ndcg@10", "recall@100"))
            progress.note(f"seed {seed} of {seeds}, {protocol}: {figures}, trained in {seconds[-1]:.0f} s")
    return protocols, seconds


def rows_of(found: Sequence[Evaluation], train_only: Sequence[Evaluation]) -> Rows:
    """Returns the mean and the standard deviation over seeds of each metric.

    Args:
        found: Evaluation of the final model of each seed, at least one.
        train_only: Evaluation, for each seed, of the model fitted on the training part only; may be empty.
    """
    names = found[0].metrics[MODEL]
    rows = {
        method: {name: _spread([e.metrics[method][name] for e in found]) for name in names}
        for method in found[0].metrics
    }
    if train_only:
        rows[TRAIN_ONLY] = {name: _spread([e.metrics[MODEL][name] for e in train_only]) for name in names}
    return rows


def to_markdown(rows: Rows) -> str:
    """Returns the metrics of `SHOWN` as a Markdown table."""
    shown = cells_of(rows)
    lines = [shown, ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    head, rule, *body = [" | ".join(line) for line in lines]
    return "\n".join([f"| {head} |", f"|{rule.replace(' ', '')}|", *(f"| {line} |" for line in body)])


def cells_of(rows: Rows) -> dict[str, list[str]]:
    """Returns the columns of a table of the metrics of `SHOWN`, by name; the first has the methods."""
    columns = {"method": list(rows)}
    for name in SHOWN:
        figures = [metrics[name] for metrics in rows.values()]
        columns[name] = [f"{mean:.4f}" + (f" ± {std:.4f}" if std >= 0.00005 else "") for mean, std in figures]
    return columns


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
