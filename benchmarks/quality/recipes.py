"""`make quality RECIPE=…`: trains a recipe with several seeds, evaluates model and baselines, and checks the targets.

Settings come from the recipe, which was chosen on the validation part; the test part is only used to measure. Prints a
table and exits with 1 if a target is missed. A recipe without targets of its own has to beat each of its baselines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality import graded_search
from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.data import sources
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading

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
    from trainer.tuning.quality import measure, to_markdown

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
    protocols, seconds = measure(
        recipe,
        folder,
        data,
        arguments.seeds,
        both=arguments.both,
        refit_only=arguments.refit_only,
        baselines=not arguments.no_baselines,
        progress=progress,
    )
    for protocol in protocols:
        print(f"\n{protocol.title(recipe)}\n\n{to_markdown(protocol.rows())}\n")
        console.print_details(protocol.found[0])
    rows, own = protocols[0].rows(), protocols[0]
    targets = targets_of(recipe.name, rows, repeats=own.repeats)
    verdicts = [judge(target, rows, own.found) for target in targets]
    for passed, text in verdicts:
        print(f"{'ok    ' if passed else 'MISSED'}  {text}")
    if not own.repeats and (left_out := [t for t in TARGETS.get(recipe.name, ()) if t not in targets]):
        print(f"{len(left_out)} of the targets are left out: what they judge was not run")
    print(f"training took {sum(seconds) / len(seconds):.0f} s a seed; all of it {time.monotonic() - began:.0f} s")
    if arguments.json:
        figures = {str(protocol): protocol.to_json() for protocol in protocols}
        arguments.json.write_text(json.dumps({**figures, "training_seconds": seconds}, indent=2) + "\n")
    return 0 if all(passed for passed, _ in verdicts) else 1


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
