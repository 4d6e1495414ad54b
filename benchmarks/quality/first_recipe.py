"""`make first-recipes`: `init`, then `train`, without a hand on the recipe, on tables of different shapes.

For each data set it prints NDCG@10 of the towers and of the best of ItemKNN, EASE, EASE with recency and iALS, on
validation and on test, and of the shipped recipe for the same data with `--shipped`. Exits with 1 if the towers are
below the best baseline anywhere, or below 95 % of the shipped recipe. `--seeds N` trains each recipe with the seeds
1 to N, and judges the mean. `--set KEY=VALUE` changes a key of every drafted recipe, to see what a rule is worth; such
a run is judged on validation alone, and leaves the test part unread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.table_shapes import SHAPES
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.data.splits import Data
from trainer.drafting.draft import draft
from trainer.drafting.recipe_writer import write_recipe
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe

if TYPE_CHECKING:
    from trainer.evaluation.baselines import FittedBaselines
    from trainer.training.saved_run import Run

METRIC = "ndcg@10"
STRONG = ("ItemKNN", "EASE", "EASE with recency", "iALS")
_OF_SHIPPED = 0.95


@dataclass(frozen=True)
class Row:
    """NDCG@10 on one data set.

    Attributes:
        name: Name of the data set.
        part: ``valid`` or ``test``.
        towers: Of the drafted recipe, for each seed.
        baseline: Name of the best strong baseline; empty if none was fitted.
        best: Its figure; 0 if none was fitted.
        shipped: Of the shipped recipe, mean over the seeds; None if it was not trained.
        seconds: Wall time of a training, mean over the seeds.
        cpu_seconds: CPU time of a training, mean over the seeds.
    """

    name: str
    part: str
    towers: Sequence[float]
    baseline: str
    best: float
    shipped: float | None
    seconds: float
    cpu_seconds: float

    @property
    def mean(self) -> float:
        """Mean of the towers over the seeds."""
        return statistics.fmean(self.towers)

    @property
    def passed(self) -> bool:
        """Whether the mean of the towers reaches the best baseline and nearly the shipped recipe."""
        return self.mean >= self.best and (self.shipped is None or self.mean >= _OF_SHIPPED * self.shipped)

    def __str__(self) -> str:
        """Returns the row of a Markdown table."""
        spread = f" ± {statistics.stdev(self.towers):.4f}" if len(self.towers) > 1 else ""
        shipped = "" if self.shipped is None else f"{self.shipped:.4f}"
        return (
            f"| {self.name} | {self.part} | {self.mean:.4f}{spread} | {self.best:.4f} {self.baseline} | {shipped} | "
            f"{self.seconds:.0f} | {self.cpu_seconds:.0f} | {'ok' if self.passed else 'MISSED'} |"
        )


Figures = dict[str, tuple[float, dict[str, float]]]
"""NDCG@10 of the towers, and of the baselines by name, for ``valid`` and, if it was read, ``test``."""

HEAD = "| data | part | towers | best baseline | shipped | s | CPU s | |\n|---|---|---|---|---|---|---|---|"


def main() -> int:
    """Runs the measurement with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.first_recipe", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DATA", help=f"data sets (default: all): {', '.join(SHAPES)}")
    parser.add_argument("--beauty", type=Path, help="folder of Beauty.txt; without it those data sets are left out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as training.dimension=32")
    parser.add_argument("--no-baselines", action="store_true", help="train the towers alone")
    parser.add_argument("--shipped", action="store_true", help="train the shipped recipes of the same data too")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train with the seeds 1 to N and judge the mean (default: 1)"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SHAPES]
    if unknown:
        parser.error(f"no data set {unknown[0]}; there are {', '.join(SHAPES)}")
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; it must be at least 1")
    names = [name for name in arguments.names or SHAPES if arguments.beauty or not SHAPES[name].needs_beauty]
    left_out = sorted({*(arguments.names or SHAPES)} - {*names})
    if left_out:
        print(f"left out, as they need --beauty: {', '.join(left_out)}", file=sys.stderr)
    import_tensorflow()
    rows: list[Row] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="two-tower-first-") as folder:
            found = measure(name, Path(folder), arguments)
        rows += found
        print("\n".join([HEAD, *map(str, found)]), flush=True)
    print("\n".join(["", HEAD, *map(str, rows)]))
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.passed for row in rows) else 1


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Drafts a recipe for a data set and trains it; returns a row for validation, and one for the test part."""
    from trainer.evaluation.baselines import fit_all

    shape, progress = SHAPES[name], RichProgress()
    tables = shape.write(folder, arguments.beauty)
    recipe = changed(write_recipe(draft(tables.interactions, tables.items, tables.users, name), folder), arguments.set)
    progress.note(f"{name}: {shape.what}")
    data = sources.read(recipe, folder)
    baselines = None if arguments.no_baselines else fit_all(data, only=STRONG, progress=progress)
    shipped: list[Figures] = []
    if arguments.shipped and shape.shipped:
        chosen = loading.load(shape.shipped)
        source = sources.data_folder(chosen, shape.shipped, arguments.beauty if shape.needs_beauty else None)
        whole = sources.read(chosen, source)
    else:
        chosen, source, whole = None, folder, data
    drafted: list[Figures] = []
    seconds, cpu = 0.0, 0.0
    for seed in range(1, arguments.seeds + 1):
        began, cpu_began = time.monotonic(), time.process_time()
        run = fit(dataclasses.replace(recipe, seed=seed), folder, data, progress)
        seconds, cpu = seconds + time.monotonic() - began, cpu + time.process_time() - cpu_began
        compared = baselines if seed == 1 else None  # the baselines are the same beside every seed
        drafted.append(figures(run, data, compared, reads_test=not arguments.set))
        shown = ", ".join(f"{part} {own:.4f}" for part, (own, _) in drafted[-1].items())
        progress.note(f"{name}, seed {seed}: {METRIC} {shown}")
        if chosen is not None:
            run = fit(dataclasses.replace(chosen, seed=seed), source, whole, progress)
            shipped.append(figures(run, whole, None, reads_test=not arguments.set))
    rows: list[Row] = []
    for part, (_, others) in drafted[0].items():
        own = [found[part][0] for found in drafted]
        best = max(others, key=lambda method: others[method], default="")
        rival = statistics.fmean(found[part][0] for found in shipped) if shipped else None
        spent = (seconds / arguments.seeds, cpu / arguments.seeds)
        rows.append(Row(name, part, own, best, others.get(best, 0.0), rival, *spent))
    return rows


def changed(text: str, settings: Sequence[str]) -> Recipe:
    """Returns a drafted recipe, changed by settings such as ``training.dimension=32`` or ``history.dropout=0.1``."""
    raw: dict[str, Any] = tomllib.loads(text)
    towers = (raw["query_tower"], raw["item_tower"])
    parts = {**raw, **{feature["name"]: feature for tower in towers for feature in tower["features"]}}
    for setting in settings:
        path, _, value = setting.partition("=")
        part, _, key = path.partition(".")
        if part not in parts or not key:
            raise SystemExit(f"--set {setting}: expected a part and a key, as training.dimension or history.dropout")
        parts[part][key] = tomllib.loads(f"value = {value}")["value"]
    return loading.parse(raw, raw["name"])


def fit(recipe: Recipe, folder: Path, data: Data, progress: RichProgress) -> Run:
    """Returns the finished run of a recipe."""
    from trainer.training.fit_and_refit import fit_and_choose

    with tempfile.TemporaryDirectory(prefix="two-tower-first-") as run_folder:
        return fit_and_choose(recipe, folder, data, Path(run_folder), resume=False, progress=progress)


def figures(run: Run, data: Data, baselines: FittedBaselines | None, *, reads_test: bool) -> Figures:
    """Returns NDCG@10 of the towers and of the baselines by name, for ``valid`` and, if it may be read, ``test``."""
    from trainer.evaluation.baselines import validation_users
    from trainer.evaluation.evaluate import MODEL, evaluate_test
    from trainer.evaluation.metrics import evaluate
    from trainer.evaluation.task import Task

    before, repeats = run.before_refit or run.model, run.model.recipe.split.repeats
    users = validation_users(data.parts, len(data.dataset.items.ids), repeats=repeats)
    task = Task(before, data.dataset, data.parts.train, data.parts.valid)
    found = {"valid": (evaluate(users, task.scorer()).means[METRIC], baselines.validation if baselines else {})}
    if reads_test:
        tested = evaluate_test(run.model, data, refitted=run.refitted, others=baselines.scorers if baselines else {})
        others = {name: tested.metrics[name][METRIC] for name in STRONG if name in tested.metrics}
        found["test"] = (tested.metrics[MODEL][METRIC], others)
    return found


if __name__ == "__main__":
    sys.exit(main())
