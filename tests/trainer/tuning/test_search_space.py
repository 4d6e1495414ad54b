"""The search space of `tune`, which depends on the recipe and the size of the data."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from tests.trainer.world import recipe
from trainer.errors import RecipeError
from trainer.recipe.recipe import Recipe
from trainer.tuning.search_space import SearchSpace

SIZES = {"item_count": 40, "event_count": 600, "longest": 12}
"""Of the shop: 60 users with 12 purchases, of which two each are held out."""


def space_of(of: Recipe, *fixed: str, **sizes: int) -> SearchSpace:
    return SearchSpace.of(of, **{**SIZES, **sizes}, fixed=fixed)


def options(space: SearchSpace) -> dict[str, Any]:
    """Returns the values of each choice, and the bounds of each number."""
    found = {p.name: p.distribution for p in space.parameters}
    return {
        name: list(d.choices) if isinstance(d, optuna.distributions.CategoricalDistribution) else (d.low, d.high)
        for name, d in found.items()
    }


def test_a_small_catalogue_is_ranked_whole_and_a_large_one_never() -> None:
    small, large = (
        options(space_of(recipe(training={"loss": "gbce"}), item_count=n))["training.loss"] for n in (20_000, 20_001)
    )
    assert "full_softmax" in small
    assert "full_softmax" not in large
    assert "mixed_softmax" in large


def test_ranges_reach_to_the_values_of_the_recipe() -> None:
    of = recipe(
        training={"learning_rate": 0.5, "temperature": 0.001, "dimension": 24, "weight_decay": 0.0},
        query_tower={"hidden_units": [7, 5], "dropout": 0.9},
    )
    found = options(space_of(of))
    assert found["training.learning_rate"] == (0.0003, 0.5)
    assert found["training.temperature"] == (0.001, 0.5)
    assert found["training.dimension"] == [32, 64, 128, 24]
    assert found["query_tower.hidden_units"] == ["[]", "[64]", "[128]", "[256]", "[7, 5]"]
    assert found["query_tower.dropout"] == (0.0, 0.9)
    # 0 has no logarithm: it is tried as the smallest value.
    assert found["training.weight_decay"] == (1e-6, 0.1)
    trial = optuna.trial.FixedTrial(space_of(of).own_values())
    assert space_of(of).choose(trial) == of


def test_the_weight_of_a_prior_is_searched_over_where_the_recipe_has_one() -> None:
    assert options(space_of(recipe(training={"prior_weight": 0.2})))["training.prior_weight"] == (0.0, 0.4)
    assert "training.prior_weight" not in options(space_of(recipe()))


def test_histories_are_no_longer_than_the_longest_one_needs() -> None:
    assert options(space_of(recipe(), longest=60))["query_tower.history.max_values"] == [10, 20, 50, 100]
    # 10 of the recipe, and 20 holds all 12.
    assert options(space_of(recipe()))["query_tower.history.max_values"] == [10, 20]


def test_a_dimension_is_divided_by_the_heads() -> None:
    history = {"name": "history", "kind": "history", "heads": 6}
    of = recipe(query_tower={"features": [history]}, training={"dimension": 48})
    assert "training.dimension" not in options(space_of(of))  # of 32, 64 and 128 none, and 48 alone is no choice


def test_a_fixed_key_stays_and_what_no_key_is_called_is_named() -> None:
    every = options(space_of(recipe()))
    left = options(space_of(recipe(), "dropout", "history.encoder"))
    gone = {n for n in every if n.endswith(".dropout")} | {"query_tower.history.encoder"}
    assert set(every) - set(left) == gone
    assert "query_tower.history.encoder_dropout" in left
    with pytest.raises(RecipeError, match=r"--fix layers: not a key that is searched over; those are training\.loss, "):
        space_of(recipe(), "layers")
    with pytest.raises(RecipeError, match="nothing to search over"):
        space_of(recipe(), *every)


@pytest.mark.parametrize(
    "own",
    [
        {"loss": "in_batch_softmax", "log_q": "streaming", "queue": 30},
        {"loss": "sampled_softmax", "sampling": "popularity", "hard_negatives": 8, "bce_weight": 0.3},
        {"loss": "bce", "sampling": "popularity"},
        {"loss": "mixed_softmax", "sampling": "popularity"},
    ],
)
@pytest.mark.parametrize("item_count", [40, 30_000])
def test_every_loss_that_is_tried_goes_with_the_rest_of_the_recipe(own: dict[str, Any], item_count: int) -> None:
    space = space_of(recipe(training=own), item_count=item_count)
    for loss in options(space)["training.loss"]:
        values = {**space.own_values(), "training.negatives": 8, "training.loss": loss}
        if "training.negatives" in options(space):
            values["training.negatives"] = options(space)["training.negatives"][0]
        assert space.choose(optuna.trial.FixedTrial(values)).training.loss == loss


def test_another_loss_leaves_out_what_it_has_no_use_for() -> None:
    of = recipe(training={"loss": "sampled_softmax", "hard_negatives": 8})
    space = space_of(of)
    own = space.own_values()
    assert space.choose(optuna.trial.FixedTrial(own)).training.hard_negatives == 8
    chosen = space.choose(optuna.trial.FixedTrial({**own, "training.loss": "full_softmax"}))
    assert (chosen.training.loss, chosen.training.hard_negatives) == ("full_softmax", 0)
    assert "training.negatives" not in space.settings(chosen.to_json())
    shallow = space.choose(optuna.trial.FixedTrial({**own, "query_tower.hidden_units": "[]"}))
    assert "query_tower.dropout" not in space.settings(shallow.to_json())
