"""A trained model: the recipe, the feature schemas and the towers, which only work together."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.features.schemas import Schemas
from trainer.model.ensemble import Towers
from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class TrainedModel:
    """Two towers, with what is needed to compute their inputs.

    Attributes:
        recipe: Resolved recipe that the towers were trained with.
        schemas: Feature schemas of both towers, with their text encoders.
        towers: Query tower and item tower.
    """

    recipe: Recipe
    schemas: Schemas
    towers: Towers
