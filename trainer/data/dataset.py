"""The data set: events sorted by user and time, the catalogue, and the users, all numbered by row."""

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
from trainer.errors import DataError
from trainer.recipe.recipe import Recipe
from trainer.recipe.tables import Entities, Items


@dataclass(frozen=True)
class Dataset:
    """The content of the recipe's tables.

    Attributes:
        events: All events, without rows below `Interactions.min_rating`.
        user_ids: External ids of all users in the interactions and the users table, sorted: [user_count].
        items: Catalogue: the items of the items table and of the interactions.
        user_columns: Raw values of each user attribute by name, each [user_count], None where missing.
        notes: Sentences about the data for the person who trains.
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
    """Reads the data set of a recipe.

    Args:
        recipe: Recipe that names the tables.
        folder: Folder that the recipe's paths are relative to.

    Raises:
        DataError: A table cannot be used; names file, column and row.
    """
    notes: list[str] = []
    items = None if recipe.items is None else read_entities(recipe.items, folder / recipe.items.path, notes)
    users = None if recipe.users is None else read_entities(recipe.users, folder / recipe.users.path, notes)
    encoder = EventEncoder()
    listed: _OnlyListed | None = None
    if recipe.items is not None and items is not None and recipe.items.only_listed:
        listed = _OnlyListed(recipe.items, items["id"])
    for frame in read_events(recipe, folder, notes):
        encoder.add(frame if listed is None else listed.of(frame))
    if listed is not None:
        listed.check(notes)
    user_ids, user_columns = _join(recipe.users, users, encoder.user_ids, "user", notes)
    item_ids, item_columns = _join(recipe.items, items, encoder.item_ids, "item", notes)
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
"""Attributes of events that are computed from their times, [n] float64 to [n] int64 in UTC.

``hour`` is 0 to 23, ``weekday`` 0 (Monday) to 6.
"""


class _OnlyListed:
    """Leaves out the interactions with items that the items table does not list, and counts them."""

    def __init__(self, source: Items, ids: pl.Series) -> None:
        self._source, self._ids = source, ids
        self._unlisted = pl.Series("item", [], dtype=pl.String)
        self._all = self._left_out = 0

    def of(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Returns the rows of a frame of interactions whose items are listed."""
        kept = frame.filter(frame["item"].is_in(self._ids.implode()))
        if kept.height < frame.height:
            rest = frame["item"].filter(~frame["item"].is_in(self._ids.implode()))
            self._unlisted = pl.concat([self._unlisted, rest.unique()]).unique()
        self._all += frame.height
        self._left_out += frame.height - kept.height
        return kept

    def check(self, notes: list[str]) -> None:
        """Adds a note on the rows that were left out.

        Raises:
            DataError: These are all rows.
        """
        if not self._left_out:
            return
        unlisted = self._unlisted.sort()
        if self._left_out == self._all:
            raise _no_common_id(self._source, self._ids, unlisted, "item")
        notes.append(
            f"{self._left_out:,} of {self._all:,} interactions are left out: their {len(unlisted):,} items are not in "
            f"{self._source.path} (for instance {unlisted[0]!r}), so they may have been withdrawn; "
            "items.only_listed = false keeps them, and recommends them without attributes."
        )


def _no_common_id(source: Entities, ids: pl.Series, undescribed: pl.Series, what: str) -> DataError:
    return DataError(
        f"none of the {len(undescribed):,} {what}s of the interactions is in {source.path}: the interactions have "
        f"ids such as {undescribed[0]!r}, {source.path} such as {ids.sort()[0]!r}; name the column that "
        f"holds the same ids, write them the same way ('7', '007' and 'P7' differ), or leave out [{what}s]"
    )


def _join(
    source: Entities | None, frame: pl.DataFrame | None, event_ids: pl.Series, what: str, notes: list[str]
) -> tuple[list[str], dict[str, list[Any]]]:
    """Returns the ids of a table of users or items and of the interactions, sorted, and their attributes by name.

    Args:
        source: Table in the recipe; None if the recipe has none.
        frame: Content of the table, as of `read_entities`; None if the recipe has none.
        event_ids: Distinct ids of the interactions.
        what: Word ``user`` or ``item``, for notes.
        notes: List to which a note on ids without attributes is added.
    """
    if source is None or frame is None:
        return event_ids.sort().to_list(), {}
    undescribed = event_ids.filter(~event_ids.is_in(frame["id"].implode())).sort()
    if len(undescribed) == len(event_ids):
        raise _no_common_id(source, frame["id"], undescribed, what)
    if len(undescribed):
        notes.append(
            f"{len(undescribed):,} of {len(event_ids):,} {what}s of the interactions are not in {source.path} "
            f"(for instance {undescribed[0]!r}): they have no attributes."
        )
        frame = pl.concat([frame, pl.DataFrame({"id": undescribed})], how="diagonal")
    frame = frame.sort("id")
    return frame["id"].to_list(), {name: frame[name].to_list() for name in source.attributes}


def read_entities(source: Entities, path: Path, notes: list[str]) -> pl.DataFrame:
    """Reads a table of users or items.

    Args:
        source: Part of the recipe that names the columns.
        path: Path of the file.
        notes: List to which notes on cells are added that were read other than they are written.

    Returns:
        Column ``id``, and one column for each attribute by its name.

    Raises:
        DataError: The table cannot be used; names file, column and row.
    """
    table = Table(path, entity_columns(source), source.separator, source.quote)
    frame = entities_in(table, source)
    notes += table.notes.values()
    return frame


def entity_columns(source: Entities) -> list[str]:
    """Returns the columns of a table of users or items that are read."""
    return [source.id, *(a.column for a in source.attributes.values())]


def entities_in(table: Table, source: Entities) -> pl.DataFrame:
    """Returns what `read_entities` does, of a table or a block of one.

    Raises:
        DataError: A cell cannot be used; names file, column and row.
    """
    ids = table.ids(source.id)
    table.refuse_duplicates(source.id)
    return pl.DataFrame({"id": ids}).with_columns(
        read_attribute(table, a).alias(name) for name, a in source.attributes.items()
    )


def _clock(recipe: Recipe, events: Events) -> dict[str, np.ndarray]:
    """Returns the computed attributes ``hour`` and ``weekday`` of the events by name, each [n] int64.

    Each is included only if the query tower reads it and no attribute of the recipe has its name.
    """
    features = {feature.name for feature in recipe.query_tower.features}
    attributes = {*recipe.interactions.attributes, *(() if recipe.users is None else recipe.users.attributes)}
    return {
        name: spill.compute(len(events), np.int64, lambda block, derive=derive: derive(events.times[block]))
        for name, derive in _CLOCK.items()
        if name in features - attributes
    }
