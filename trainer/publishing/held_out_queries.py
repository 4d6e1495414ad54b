"""Queries of held-out users, which serve to measure the recall of the index and for golden queries and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.splits import Parts
from trainer.evaluation.task import reads_requests
from trainer.recipe.recipe import Recipe

_MAX_USERS = 1000


@dataclass(frozen=True)
class HeldOutQueries:
    """Queries of held-out users, and their embeddings.

    Attributes:
        users: [n] int, row numbers of the users in the data set.
        columns: Raw feature values of the queries by name, each [n], as a client sends them.
        embeddings: [n, dim] float32, unit length: embeddings of the queries.
    """

    users: np.ndarray
    columns: Mapping[str, Sequence[Any]]
    embeddings: np.ndarray

    def first(self, count: int) -> HeldOutQueries:
        """Returns the first `count` queries, or all if there are fewer."""
        columns = {name: column[:count] for name, column in self.columns.items()}
        return HeldOutQueries(self.users[:count], columns, self.embeddings[:count])


def sample_users(recipe: Recipe, parts: Parts) -> np.ndarray:
    """Returns the rows of up to 1,000 users of the test part, in random order: [n] int64.

    Users without known events are left out unless queries describe the request, so that they need no history. If
    no user is left, the users are those with known events.

    Args:
        recipe: Recipe, whose seed decides which users are drawn.
        parts: Split of the data set.
    """
    known, tested = (np.flatnonzero(part.user_counts) for part in (parts.known, parts.test))
    users = tested if reads_requests(recipe) else np.intersect1d(known, tested)
    if not len(users):
        users = known
    return np.random.default_rng(recipe.seed).permutation(users)[:_MAX_USERS]
