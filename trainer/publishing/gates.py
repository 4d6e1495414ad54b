"""The publish gates: the checks that a bundle has to pass before it may go live.

| gate                    | figure                                     | passes where                                  |
|-------------------------|--------------------------------------------|-----------------------------------------------|
| worse_than_live/METRIC  | the metric on the test part                | >= (1 - max_loss_to_live) x the live bundle's |
| beats_popularity/METRIC | the metric on the test part                | > (1 + min_gain_over_popularity) x popularity |
| reaches_BASELINE/METRIC | the metric on the test part                | >= the baseline's, for other gates.baselines  |
| ann_recall              | recall@100 of the written index            | >= index.min_recall_at_100                    |
| never_retrieved         | share of the catalogue in no top 100       | <= max_never_retrieved                        |

This module compares figures with thresholds; `trainer.evaluation.comparison` measures the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval.bundle.manifest import GateResult
from trainer.recipe.recipe import Recipe

if TYPE_CHECKING:  # it imports tensorflow, which takes seconds
    from trainer.evaluation.comparison import Comparison

ANN_RECALL = "ann_recall"
NEVER_RETRIEVED = "never_retrieved"


def judge(
    recipe: Recipe,
    metrics: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float] | None],
    ann_recall: float,
    comparison: Comparison,
) -> dict[str, GateResult]:
    """Returns the result of each gate, by name.

    Args:
        recipe: Recipe, which sets the metrics and the thresholds.
        metrics: Metrics of the new bundle by name.
        baselines: Metrics of each of `Gates.baselines` by name; None if a baseline could not be fitted.
        ann_recall: recall@100 of the new bundle's index, 0 to 1.
        comparison: Comparison with the live bundle. If the two cannot be compared, there is no ``worse_than_live``.
    """
    results: dict[str, GateResult] = {}
    if comparison.live_metrics:
        for name in recipe.gates.metrics:
            results[f"worse_than_live/{name}"] = _worse_than_live(recipe, name, metrics[name], comparison)
    for baseline, figures in baselines.items():
        for name in recipe.gates.metrics:
            if baseline == "popularity" and figures is not None:
                results[f"beats_popularity/{name}"] = _beats_popularity(recipe, name, metrics[name], figures[name])
            else:
                results[f"reaches_{baseline}/{name}"] = _reaches(baseline, name, metrics[name], figures)
    results[ANN_RECALL] = judge_ann_recall(ann_recall, recipe.index.min_recall_at_100)
    results[NEVER_RETRIEVED] = _never_retrieved(comparison.never_retrieved, recipe.gates.max_never_retrieved)
    return results


def judge_ann_recall(recall: float, floor: float) -> GateResult:
    """Returns the result of the gate ``ann_recall``.

    Args:
        recall: recall@100 of the index, 0 to 1.
        floor: Smallest recall that passes, 0 to 1.
    """
    passed = recall >= floor
    message = f"recall@100 of the index is {recall:.4f}, at least {floor:.4f} is required (index.min_recall_at_100)"
    return GateResult(recall, floor, passed, message + ("" if passed else ": add more trees to index.trees"))


def to_json(results: Mapping[str, GateResult]) -> dict[str, dict[str, Any]]:
    """Returns the results of the gates by name, as ``evaluation.json`` holds them."""
    return {name: dataclasses.asdict(result) for name, result in results.items()}


def _worse_than_live(recipe: Recipe, name: str, figure: float, comparison: Comparison) -> GateResult:
    live = comparison.live_metrics[name]
    threshold = (1 - recipe.gates.max_loss_to_live) * live
    passed = figure >= threshold
    message = (
        f"{name} is {figure:.4f}, the live bundle {comparison.live} has {live:.4f} on the same held-out data; at least "
        f"{threshold:.4f} is required (gates.max_loss_to_live = {recipe.gates.max_loss_to_live:g})"
    )
    return GateResult(figure, threshold, passed, message + ("" if passed else ": train longer, or look at the data"))


def _beats_popularity(recipe: Recipe, name: str, figure: float, popularity: float) -> GateResult:
    gain = recipe.gates.min_gain_over_popularity
    # No metric is above 1, and in a catalogue of fewer than 100 items every recall@100 is 1.
    threshold = min((1 + gain) * popularity, 1.0)
    passed = figure > threshold or figure >= 1.0 or gain <= -1.0
    message = (
        f"{name} is {figure:.4f}, recommending the most popular items to everyone gives {popularity:.4f}; more than "
        f"{threshold:.4f} is required (gates.min_gain_over_popularity = {gain:g})"
    )
    advice = (
        ": train longer, or give the towers better features; with a few hundred items leave recall@100 out of "
        "gates.metrics, as any ranking has nearly all of them there"
    )
    return GateResult(figure, threshold, passed, message + ("" if passed else advice))


def _reaches(baseline: str, name: str, figure: float, figures: Mapping[str, float] | None) -> GateResult:
    if figures is None:
        message = f"{baseline} could not be fitted here, so {name} cannot be compared: leave it out of gates.baselines"
        return GateResult(figure, 1.0, passed=False, message=message)
    passed = figure >= figures[name]
    message = f"{name} is {figure:.4f}, at least the {figures[name]:.4f} of {baseline} is required (gates.baselines)"
    advice = "" if passed else ": `python -m trainer tune` searches for a better recipe"
    return GateResult(figure, figures[name], passed, message + advice)


def _never_retrieved(share: float, limit: float) -> GateResult:
    passed = share <= limit
    message = (
        f"{share:.4f} of the catalogue is in no top 100, at most {limit:.4f} is allowed (gates.max_never_retrieved)"
    )
    return GateResult(share, limit, passed, message + ("" if passed else ": raise training.temperature or the limit"))
