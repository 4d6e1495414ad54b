"""Says plainly when a simple method ranks better than the towers, and what to try first."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.evaluation.evaluate import MODEL, Evaluation
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import ITEM_ID, Recipe

METRIC = "ndcg@10"


def advise(evaluation: Evaluation, recipe: Recipe) -> list[str]:
    """Returns sentences about the best method that ranks better than the towers; empty if none does.

    Args:
        evaluation: Evaluation with the baselines.
        recipe: Recipe of the towers.
    """
    own = evaluation.metrics[MODEL][METRIC]
    best = max(evaluation.metrics, key=lambda name: evaluation.metrics[name][METRIC])
    figure = evaluation.metrics[best][METRIC]
    if figure <= own:
        return []
    _, low, high = evaluation.differences[best][METRIC]
    certain = "" if high < 0 else ", which may be chance"
    steps = "; ".join(f"{number}. {step}" for number, step in enumerate(_steps(recipe), start=1))
    return [
        f"{best} ranks better than the towers here: {METRIC} {figure:.4f} and {own:.4f} (towers minus {best}: "
        f"95 % interval {low:+.4f} to {high:+.4f}{certain}).",
        f"To try, in this order: {steps}. docs/first_recipes.md has figures of other data. The towers "
        f"still answer new users, features and filters, which {best} cannot.",
    ]


def _steps(recipe: Recipe) -> Iterator[str]:
    """Yields what to change in a recipe, the cheapest change first."""
    histories = [f for f in recipe.query_tower.features if isinstance(f, HistoryInput)]
    attributes = [f for f in recipe.item_tower.features if f.name != ITEM_ID]
    if recipe.training.initial_norm > 0.3:
        yield "initial_norm = 0.3, or 0.1 where items have fewer than 20 events"
    if any(history.items == "tied" for history in histories) and attributes:
        yield 'items = "tower" of the history, where users have fewer than 20 events'
    if recipe.training.patience == 0:
        yield "patience = 4, which stops at the best epoch"
    if recipe.training.ensemble_size == 1:
        yield "ensemble_size = 3, for three times the training time"
    yield "`python -m trainer tune RECIPE --minutes 30`"
