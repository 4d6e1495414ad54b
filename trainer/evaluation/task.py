"""An evaluation task: a model and the held-out events of known users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.evaluation.metrics import Scorer
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.model.trained_model import TrainedModel
from trainer.recipe.feature_inputs import TextInput
from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """A model, and the events that it is evaluated on.

    Attributes:
        model: Model to evaluate.
        dataset: Users and items.
        known: Events of the histories.
        held_out: Held-out events; the first one of each user gives the time and the features of the request.
    """

    model: TrainedModel
    dataset: Dataset
    known: Events
    held_out: Events

    @cached_property
    def vectors(self) -> np.ndarray:
        """Embeddings of the catalogue: [item_count, dim] float32, unit length."""
        return embed_items(self.model.towers[1], self.model.schemas, self.dataset)

    def scorer(self, keep: Callable[[str], bool] = lambda _: True) -> Scorer:
        """Returns a scorer whose scores are the dot products of query and item embeddings.

        Args:
            keep: Function that tells by the name of a feature whether requests have it. Default: all features.
        """
        recipe, schemas, query_tower = self.model.recipe, self.model.schemas, self.model.towers[0]

        def score(users: np.ndarray) -> np.ndarray:
            raw = raw_queries(recipe, self.dataset, schemas, self.known, users, self.held_out)
            sent = {name: column for name, column in raw.items() if keep(name)}
            return embed_queries(query_tower, schemas, sent, len(users)) @ self.vectors.T  # [n, item_count]

        return score


def reads_requests(recipe: Recipe) -> bool:
    """Returns whether the query tower reads a text; if so, users without known events are evaluated too."""
    return any(isinstance(feature, TextInput) for feature in recipe.query_tower.features)
