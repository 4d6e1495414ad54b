"""The summary of ``report.html``: where the bundle comes from, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval.bundle.manifest import IndexSpec
from trainer.data.splits import Data
from trainer.recipe.training import Training

if TYPE_CHECKING:  # it imports tensorflow, which takes seconds
    from trainer.training.saved_run import Run


def facts_of(
    run: Run,
    data: Data,
    evaluation: Mapping[str, Any],
    *,
    version: str,
    parent: str | None,
    spec: IndexSpec,
) -> dict[str, str]:
    """Returns the lines of the summary at the top of the report, by label.

    Args:
        run: Run that is published.
        data: Data set and its split.
        evaluation: Content of ``evaluation.json``.
        version: Version of the new bundle.
        parent: Version of the live bundle. None: no bundle is live.
        spec: kind, parameters and search budget of the index.
    """
    dataset, parts = data
    recipe, pairs = run.model.recipe, dataset.events.pair_count
    users, items = len(dataset.user_ids), len(dataset.items.ids)
    sizes = ", ".join(f"{len(getattr(parts, name)):,} {name}" for name in ("train", "valid", "test"))
    warm, cold = evaluation["user_count"], evaluation["cold_user_count"]
    training = recipe.training
    facts = {
        "Bundle": version,
        "Model": run.model_version,
        "Live before": parent or "none",
        "Recipe": recipe.name,
        "Seed": str(recipe.seed),
        "Code": run.git_commit or "unknown commit",
        "Users": f"{users:,}",
        "Items": f"{items:,}",
        "Interactions": f"{len(dataset.events):,}, density {pairs / (users * items):.2%}",
        "Split": f"{recipe.split.kind}: {sizes}",
        "Fitted on": "training and validation" if run.refitted else "training",
        **({"Ensemble": f"the mean of {training.ensemble_size} pairs of towers"} if training.ensemble_size > 1 else {}),
        **({"Recent-popularity prior": _of_prior(training)} if training.prior_weight else {}),
        "Evaluated": f"{warm:,} users; {cold:,} without any known item are left out{_of_repeats(evaluation)}",
        "Index": f"{spec.kind}, " + ", ".join(f"{name} {value}" for name, value in spec.parameters.items()),
        "Search budget": f"{spec.search_budget:,}, recall@100 {spec.recall_at_100:.4f}",
    }
    return facts | {f"Note {number}": note for number, note in enumerate(dataset.notes, 1)}


def _of_repeats(evaluation: Mapping[str, Any]) -> str:
    """Returns the share of test events that repeat a known item, and whether they count, as words."""
    share = f"{evaluation['repeat_share']:.1%} of the test events repeat an item that the user had, and"
    if evaluation["repeats"]:
        return f"; {share} count"
    return f", and {evaluation['repeat_user_count']:,} who interacted with nothing new; {share} do not count"


def _of_prior(training: Training) -> str:
    return f"events of the newest {training.prior_days:g} days of training, weight {training.prior_weight:g}"
