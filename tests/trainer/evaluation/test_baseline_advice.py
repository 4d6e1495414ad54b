"""What `train` says when a simple method ranks better than the towers."""

from __future__ import annotations

from typing import Any

import pytest

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
    assert advise(evaluation(two_tower=0.1, popularity=0.2, EASE=0.09)) == []
    assert advise(evaluation(two_tower=0.1)) == []


@pytest.mark.parametrize(("ease", "may_be_chance"), [(0.105, True), (0.15, False)])
def test_the_best_method_is_named_with_the_certainty(ease: float, may_be_chance: bool) -> None:
    found = advise(evaluation(two_tower=0.1, ItemKNN=0.102, EASE=ease))
    assert found[0].startswith(f"EASE ranks better than the towers here: ndcg@10 {ease:.4f} and 0.1000")
    assert ("may be chance" in found[0]) == may_be_chance
    assert "trainer tune" in found[1]
