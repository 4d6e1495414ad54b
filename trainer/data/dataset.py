"""A data set: the events in order of user and time, the catalogue and the users, by dense row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from retrieval.bundle.catalogue.items import COLUMN_TYPES, Column, ItemTable
from trainer.data import spill
from trainer.data.events import Events
from trainer.data.external_sort import EventEncoder
from trainer.data.interactions import read_attribute, read_events
from trainer.data.tables import Table
from trainer.recipe.recipe import Recipe
from trainer.recipe.tables import Entities


@dataclass(frozen=True)
class Dataset:
    """What the recipe's tables hold.

    Attributes:
        events: all interactions that count.
        user_ids: [user_count] external ids, sorted: of the interactions and of the users table.
        items: the catalogue: the items table, or the items of the interactions where there is none.
        user_columns: attributes by name, each [user_count] raw values or None.
        notes: what a person should know of the data, a sentence each.
    """

    events: Events
    user_ids: tuple[str, ...]
    items: ItemTable
    user_columns: Mapping[str, Sequence[Any]]
    notes: tuple[str, ...]

    def item_column(self, name: str) -> list[Any]:
        """Returns the raw values of an item attribute: [item_count], None where missing."""
        column = self.items.attributes[name]
        return [column.at(row) for row in range(len(self.items.ids))]


def load_dataset(recipe: Recipe, folder: Path) -> Dataset:
    """Returns the data set of a recipe.

    Args:
        recipe: names the tables.
        folder: that its paths are relative to.

    Raises:
        DataError: names file, column and row of what is wrong.
    """
    notes: list[str] = []
    encoder = EventEncoder()
    for frame in read_events(recipe, folder):
        encoder.add(frame)
    user_ids, user_columns = _read_entities(recipe.users, folder, encoder.user_ids, "user", notes)
    item_ids, item_columns = _read_entities(recipe.items, folder, encoder.item_ids, "item", notes)
    events = encoder.sorted(user_ids, item_ids)
    events = dataclasses.replace(events, attributes={**events.attributes, **_clock(recipe, events)})
    types = {} if recipe.items is None else {name: a.type for name, a in recipe.items.attributes.items()}
    attributes: dict[str, Column] = {
        name: COLUMN_TYPES[types[name]].of(column) for name, column in item_columns.items()
    }
    return Dataset(events, tuple(user_ids), ItemTable.of(tuple(item_ids), attributes), user_columns, tuple(notes))


_CLOCK: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "hour": lambda times: (times // 3600 % 24).astype(np.int64),
    "weekday": lambda times: ((times // 86_400 + 3) % 7).astype(np.int64),  # 1970 began on a Thursday
}
"""Attributes of an event that its time [n] float64 gives, in UTC: [n] int64, 0 to 23, and 0 (Monday) to 6."""


def _read_entities(
    source: Entities | None, folder: Path, met: pl.Series, what: str, notes: list[str]
) -> tuple[list[str], dict[str, list[Any]]]:
    """Returns ids, and attribute columns of raw values, of those in the table and `met`: distinct, of interactions."""
    if source is None:
        return met.sort().to_list(), {}
    frame = read_entities(source, folder / source.path)
    undescribed = met.filter(~met.is_in(frame["id"].implode())).sort()
    if len(undescribed):
        notes.append(
            f"{len(undescribed):,} of {len(met):,} {what}s of the interactions are not in {source.path} "
            f"(for instance {undescribed[0]!r}): they have no attributes."
        )
        frame = pl.concat([frame, pl.DataFrame({"id": undescribed})], how="diagonal")
    frame = frame.sort("id")
    return frame["id"].to_list(), {name: frame[name].to_list() for name in source.attributes}


def read_entities(source: Entities, path: Path) -> pl.DataFrame:
    """Returns the rows of a users or items table: ``id``, and each attribute by its name.

    Args:
        source: names the columns.
        path: of the file.

    Raises:
        DataError: names file, column and row of what is wrong.
    """
    columns = [source.id, *(a.column for a in source.attributes.values())]
    table = Table(path, columns, source.separator, source.quote)
    table.strings(source.id, required=True)
    table.refuse_duplicates(source.id)
    return pl.DataFrame({"id": table.strings(source.id)}).with_columns(
        read_attribute(table, a).alias(name) for name, a in source.attributes.items()
    )


def _clock(recipe: Recipe, events: Events) -> dict[str, np.ndarray]:
    """Returns what features of the query tower ask of the times, where no attribute has the name already."""
    asked = {feature.name for feature in recipe.query_tower.features}
    taken = {*recipe.interactions.attributes, *(() if recipe.users is None else recipe.users.attributes)}
    return {
        name: spill.compute(len(events), np.int64, lambda block, derive=derive: derive(events.times[block]))
        for name, derive in _CLOCK.items()
        if name in asked - taken
    }
