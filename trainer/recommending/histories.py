"""Histories of users, from a table of interactions with the columns of the recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.bundle.features.schema import FeatureSchema
from trainer.data.events import Events
from trainer.data.external_sort import EventEncoder
from trainer.data.interactions import read_events
from trainer.features.event_schema import histories_of
from trainer.recipe.recipe import Recipe, Split


@dataclass(frozen=True, eq=False)
class Histories:
    """The interactions of all users, oldest first. Large columns are on disk; the distinct ids are in memory.

    Attributes:
        user_ids: Ids of the users with interactions, sorted: [user_count].
        item_ids: Ids of the items of the interactions, sorted.
        events: Interactions with relevance above 0.
        starts: [user_count + 2] row of each user's first event; a further user, `user_count`, has none.
    """

    user_ids: Strings
    item_ids: Sequence[str]
    events: Events
    starts: np.ndarray

    @staticmethod
    def read(recipe: Recipe, path: Path, notes: list[str]) -> Histories:
        """Reads a table of interactions.

        Args:
            recipe: Recipe that names the columns.
            path: Path of the table.
            notes: List to which notes on cells are added that were read other than they are written.

        Raises:
            DataError: The table cannot be used; names file, column and row.
        """
        interactions = dataclasses.replace(recipe.interactions, path=str(path.resolve()))
        # No split: its column is no part of new interactions.
        read = dataclasses.replace(recipe, interactions=interactions, split=Split())
        encoder = EventEncoder()
        for frame in read_events(read, Path(), notes):
            encoder.add(frame)
        user_ids, item_ids = encoder.user_ids.sort().to_list(), encoder.item_ids.sort().to_list()
        events = encoder.sorted(user_ids, item_ids).relevant
        starts = events.starts(len(user_ids))
        return Histories(Strings.of(user_ids), tuple(item_ids), events, np.append(starts, starts[-1]))

    def rows_of(self, user_ids: Sequence[str]) -> np.ndarray:
        """Returns the row of each user: [n] int64, that of the user without events for an unknown id."""
        rows = self.user_ids.find(user_ids)
        rows[rows == ABSENT] = len(self.user_ids)
        return rows

    def columns(self, schema: FeatureSchema, users: np.ndarray) -> dict[str, list[Any]]:
        """Returns the histories of users and the features of their events by name, as a client sends them.

        Args:
            schema: Schema of the query tower.
            users: [n] rows of the users, as `rows_of` returns them.
        """
        return histories_of(schema, self.item_ids, self.events, self.starts, users)

    def known_items(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items of the events of users, as positions in `users` and in `item_ids`, [m] int64 each."""
        first, counts = self.starts[users], self.starts[users + 1] - self.starts[users]
        owners = np.repeat(np.arange(len(users)), counts)
        before = np.cumsum(counts) - counts
        rows = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
        return owners, self.events.items[rows].astype(np.int64)
