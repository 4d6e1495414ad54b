"""A trained model: towers, together with the recipe and the feature schemas that they were trained with."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.features.schemas import Schemas
from trainer.model.ensemble import Towers
from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class TrainedModel:
    """Query tower and item tower, with the recipe and the schemas that compute their inputs.

    Attributes:
        recipe: Resolved recipe that the towers were trained with.
        schemas: Feature schemas of both towers, with their text encoders.
        towers: Query tower and item tower.
    """

    recipe: Recipe
    schemas: Schemas
    towers: Towers
