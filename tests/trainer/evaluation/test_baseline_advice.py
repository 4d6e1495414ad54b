"""What `train` says when a simple method ranks better than the towers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.world import recipe
from trainer.evaluation.baseline_advice import METRIC, advise
from trainer.evaluation.evaluate import Evaluation


def evaluation(**metrics: float) -> Evaluation:
    figures = {name.replace("_", "-"): {METRIC: value} for name, value in metrics.items()}
    own = metrics["two_tower"]
    differences: Any = {
        name: {METRIC: (own - value[METRIC], own - value[METRIC] - 0.01, own - value[METRIC] + 0.01)}
        for name, value in figures.items()
    }
    return Evaluation(figures, 10, 0, 0.0, 0.0, differences=differences)


def test_nothing_is_said_if_the_towers_rank_best() -> None:
    assert advise(evaluation(two_tower=0.1, popularity=0.09, EASE=0.1), recipe()) == []
    assert advise(evaluation(two_tower=0.1), recipe()) == []


@pytest.mark.parametrize(("ease", "may_be_chance"), [(0.105, True), (0.15, False)])
def test_the_best_method_is_named_with_the_certainty(ease: float, may_be_chance: bool) -> None:
    found = advise(evaluation(two_tower=0.1, popularity=0.101, ItemKNN=0.102, EASE=ease), recipe())
    assert found[0].startswith(f"EASE ranks better than the towers here: ndcg@10 {ease:.4f} and 0.1000")
    assert ("may be chance" in found[0]) == may_be_chance


def test_what_to_try_is_what_the_recipe_does_not_have_yet() -> None:
    worse = evaluation(two_tower=0.1, EASE=0.15)
    steps = advise(worse, recipe(training={"initial_norm": 1.0, "ensemble_size": 1, "patience": 0}))[1]
    assert steps.startswith("To try, in this order: 1. initial_norm = 0.3")
    assert "ensemble_size = 3" in steps
    done = advise(worse, recipe(training={"initial_norm": 0.1, "ensemble_size": 3, "patience": 4}))[1]
    assert "initial_norm" not in done
    assert "ensemble_size" not in done
    assert "tune RECIPE --minutes 30" in done
