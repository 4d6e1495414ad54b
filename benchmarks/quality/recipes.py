"""`make quality RECIPE=…`: trains a recipe with several seeds, evaluates model and baselines, and checks the targets.

Settings come from the recipe, which was chosen on the validation part; the test part is only used to measure. Prints a
table and exits with 1 if a target is missed. A recipe without targets of its own has to beat each of its baselines.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.quality import graded_search
from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

if TYPE_CHECKING:
    from trainer.evaluation.evaluate import Evaluation

SHOWN = ("hr@10", "recall@50", "recall@100", "ndcg@10", "ndcg@100", "mrr", "coverage@10")
MODEL, TRAIN_ONLY = "two-tower", "two-tower, fitted on train only"
REPEAT_FREQUENCY = "repeat frequency"


@dataclass(frozen=True)
class Floor:
    """Target: a lower bound on a metric of a method, as a mean over seeds.

    Attributes:
        method: Name of the method: the model, or a baseline.
        metric: Name of the metric, for instance ``recall@100``.
        at_least: Smallest mean that reaches the target.
    """

    method: str
    metric: str
    at_least: float


@dataclass(frozen=True)
class Beats:
    """Target: a baseline whose metric the model has to exceed.

    Attributes:
        baseline: Name of the baseline.
        metric: Name of the metric, for instance ``recall@100``.
        surely: Whether the paired 95 % interval of the difference has to be above zero in every seed. Default: the mean
            over seeds has to be higher.
    """

    baseline: str
    metric: str
    surely: bool = False


TARGETS: Mapping[str, Sequence[Floor | Beats]] = {
    "movielens_100k": (
        Floor(MODEL, "ndcg@10", 0.115),
        Floor(MODEL, "hr@10", 0.215),
        Floor(MODEL, "recall@100", 0.65),
        Floor(MODEL, "coverage@10", 0.40),
        Beats("EASE", "ndcg@10", surely=True),
    ),
    "amazon_beauty": (
        Floor(MODEL, "hr@10", 0.110),
        Floor(MODEL, "ndcg@10", 0.065),
        Floor(TRAIN_ONLY, "hr@10", 0.098),
        Floor(TRAIN_ONLY, "ndcg@10", 0.057),
    ),
}


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its tables, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.recipes", description=__doc__)
    parser.add_argument("recipe", help="a shipped recipe, or the path of a TOML file")
    parser.add_argument("--data", type=Path, help="folder of the recipe's tables (default: its download)")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings, with seeds 1, 2, … (default: 3)")
    parser.add_argument(
        "--both",
        action="store_true",
        help="evaluate both without and with known items in the ranking; targets apply to the recipe's own protocol",
    )
    parser.add_argument(
        "--refit-only", action="store_true", help="fit on train + valid at once, for all epochs: half the time"
    )
    parser.add_argument(
        "--no-baselines", action="store_true", help="compare with the popularity baseline only, to save time"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    import_tensorflow()
    from trainer.evaluation.baselines import fit_all
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.training.fit_and_refit import fit_and_choose

    began = time.monotonic()
    recipe = loading.load(arguments.recipe)
    if recipe.prepare is not None:  # a search recipe is evaluated on graded queries, since it holds out no events
        if arguments.data is None:
            parser.error(f"{recipe.name} needs --data (make: DATA=), the folder of the catalogue.\n{recipe.origin}")
        return graded_search.measure(recipe, arguments.recipe, arguments.data, arguments.seeds, arguments.json)
    progress = RichProgress()
    folder = sources.data_folder(recipe, arguments.recipe, arguments.data, progress=progress)
    data = sources.read(recipe, folder)
    console.print_data(recipe, data)
    protocols = [Protocol(recipe.split.repeats, {})]
    if arguments.both:
        protocols.append(Protocol(not recipe.split.repeats, {}))
    if not arguments.no_baselines:
        for protocol in protocols:
            others, notes, _ = fit_all(data, repeats=protocol.repeats, progress=progress)
            protocol.others.update(others)
            for note in notes:
                progress.note(f"note: {note}")
    seconds: list[float] = []
    for seed in range(1, arguments.seeds + 1):
        seeded = dataclasses.replace(recipe, seed=seed)
        with tempfile.TemporaryDirectory(prefix="two-tower-quality-") as run_folder:
            fit_began = time.monotonic()
            run = fit_and_choose(
                seeded,
                folder,
                data,
                Path(run_folder),
                resume=False,
                refit_only=arguments.refit_only,
                progress=progress,
            )
            seconds.append(time.monotonic() - fit_began)
        for protocol in protocols:
            judge_test = functools.partial(evaluate_test, data=data, repeats=protocol.repeats, others=protocol.others)
            protocol.found.append(judge_test(run.model, refitted=run.refitted))
            if run.before_refit is not None:
                protocol.train_only.append(judge_test(run.before_refit))
            console.print_evaluation(protocol.found[-1], f"{recipe.name}, seed {seed}, {protocol}")
    passed = protocols[0].judge(recipe, arguments.seeds)
    for other in protocols[1:]:
        other.show(recipe, arguments.seeds)
    print(f"training took {np.mean(seconds):.0f} s a seed; all of it {time.monotonic() - began:.0f} s")
    if arguments.json:
        figures = {str(protocol): protocol.to_json() for protocol in protocols}
        arguments.json.write_text(json.dumps({**figures, "training_seconds": seconds}, indent=2) + "\n")
    return 0 if passed else 1


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
    others: dict[str, Any]
    found: list[Evaluation] = field(default_factory=list)
    train_only: list[Evaluation] = field(default_factory=list)

    def __str__(self) -> str:
        """Returns which items the protocol ranks, in words."""
        return "all items, known ones too" if self.repeats else "new items"

    def judge(self, recipe: Recipe, seeds: int) -> bool:
        """Prints the means over seeds and a verdict for each target; returns whether every target is reached.

        Args:
            recipe: recipe that was trained.
            seeds: number of trainings.
        """
        rows = self.show(recipe, seeds)
        targets = targets_of(recipe.name, rows, repeats=self.repeats)
        verdicts = [judge(target, rows, self.found) for target in targets]
        for passed, text in verdicts:
            print(f"{'ok    ' if passed else 'MISSED'}  {text}")
        if not self.repeats and (left_out := [t for t in TARGETS.get(recipe.name, ()) if t not in targets]):
            print(f"{len(left_out)} of the targets are left out: what they judge was not run")
        return all(passed for passed, _ in verdicts)

    def show(self, recipe: Recipe, seeds: int) -> dict[str, dict[str, tuple[float, float]]]:
        """Prints the table of metrics by method, means over seeds, and returns the result of `rows_of`.

        Args:
            recipe: recipe that was trained.
            seeds: number of trainings.
        """
        rows = rows_of(self.found, self.train_only)
        fitted_on = f"two-tower fitted on {self.found[0].fitted_on}, all others on train + valid"
        _print(rows, f"{recipe.name}, {recipe.split.kind}, {self}; {fitted_on}; seeds: {seeds}")
        console.print_details(self.found[0])
        return rows

    def to_json(self) -> dict[str, Any]:
        """Returns all evaluations as values that `json.dumps` takes."""
        figures = {"fitted": self.found, "fitted_on_train": self.train_only}
        return {name: [dataclasses.asdict(e) for e in evaluations] for name, evaluations in figures.items()}


def rows_of(found: Sequence, train_only: Sequence) -> dict[str, dict[str, tuple[float, float]]]:
    """Returns the mean and the standard deviation over seeds of each metric, by method name and metric name.

    Args:
        found: evaluation of the final model of each seed, at least one.
        train_only: evaluation, for each seed, of the model fitted on the training part only; may be empty.
    """
    rows = {}
    for method in found[0].metrics:
        rows[method] = {name: _spread([e.metrics[method][name] for e in found]) for name in found[0].metrics[MODEL]}
    if train_only:
        rows[TRAIN_ONLY] = {
            name: _spread([e.metrics[MODEL][name] for e in train_only]) for name in found[0].metrics[MODEL]
        }
    return rows


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _print(rows: Mapping[str, Mapping[str, tuple[float, float]]], title: str) -> None:
    print(f"\n{title}\n\n| method | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for method, metrics in rows.items():
        cells = (metrics[name] for name in SHOWN)
        print(f"| {method} | {' | '.join(f'{m:.4f}' + (f' ± {s:.4f}' if s >= 0.00005 else '') for m, s in cells)} |")
    print()


def targets_of(name: str, rows: Mapping[str, Any], *, repeats: bool = False) -> list[Floor | Beats]:
    """Returns the targets of a recipe. A recipe without targets of its own has to beat each of its baselines.

    Targets that refer to a method that was not run are left out.

    Args:
        name: name of the recipe.
        rows: metrics by method name, for the methods that were run.
        repeats: whether known items are ranked too. Then every recipe has to beat its baselines except the repeat
            frequency, which recommends no new item.
    """
    methods = [method for method in rows if method not in (MODEL, TRAIN_ONLY, REPEAT_FREQUENCY)]
    beats = [Beats(method, metric) for method in methods for metric in ("recall@100", "ndcg@10")]
    own = beats if repeats else TARGETS.get(name, beats)
    return [target for target in own if (target.method if isinstance(target, Floor) else target.baseline) in rows]


def judge(target: Floor | Beats, rows: Mapping, found: Sequence) -> tuple[bool, str]:
    """Returns whether a target is reached, and a line to print about it.

    Args:
        target: target to check.
        rows: mean and standard deviation over seeds, by method and metric.
        found: evaluation of each seed.
    """
    if isinstance(target, Floor):
        mean, spread = rows[target.method][target.metric]
        text = f"{target.method}: {target.metric} {mean:.4f} ± {spread:.4f}, at least {target.at_least} is the target"
        return mean >= target.at_least, text
    if target.surely:
        low = min(e.differences[target.baseline][target.metric][1] for e in found)
        return low > 0, f"{target.metric} above {target.baseline}: the paired 95 % interval begins at {low:+.4f}"
    mean, other = rows[MODEL][target.metric][0], rows[target.baseline][target.metric][0]
    return mean > other, f"{target.metric} {mean:.4f}, {target.baseline} has {other:.4f}"


if __name__ == "__main__":
    sys.exit(main())
