"""The summary of the report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from retrieval.bundle.manifest import IndexSpec
from tests.trainer.world import dataset, recipe
from trainer.data import splits
from trainer.publishing.report.facts import facts_of

EVENTS = [("u0", "a", 0.0), ("u0", "b", 1.0), ("u0", "c", 2.0), ("u1", "b", 0.0), ("u1", "a", 1.0), ("u1", "d", 2.0)]
EVALUATION: dict[str, Any] = {"user_count": 2, "cold_user_count": 0, "repeats": True, "repeat_share": 0.5}


def facts(**training: Any) -> dict[str, str]:
    of = recipe(training=training)
    data = dataset(EVENTS, items={each: {} for each in "abcd"})
    run: Any = SimpleNamespace(model=SimpleNamespace(recipe=of), model_version="m1", git_commit="", refitted=True)
    spec = IndexSpec("annoy", "angular", {"trees": 5}, 100, 0.99)
    return facts_of(
        run, splits.Data(data, splits.split(data, of.split)), EVALUATION, version="b1", parent=None, spec=spec
    )


def test_states_sizes_and_how_it_was_evaluated() -> None:
    summary = facts()
    assert (summary["Users"], summary["Items"], summary["Interactions"]) == ("2", "4", "6, density 75.00%")
    assert summary["Evaluated"].endswith("50.0% of the test events repeat an item that the user had, and count")
    assert "Recent-popularity prior" not in summary
    assert "Ensemble" not in summary


def test_states_what_was_added_to_the_towers() -> None:
    summary = facts(prior_weight=0.2, prior_days=14.0, ensemble_size=3)
    assert summary["Recent-popularity prior"] == "events of the newest 14 days of training, weight 0.2"
    assert summary["Ensemble"] == "the mean of 3 pairs of towers"
