"""Drafts a recipe from the user's tables, with warnings about choices that are not certain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from trainer.data.data_checks import MANY_REPEATS
from trainer.drafting import column_roles, column_types
from trainer.drafting.column_content import numbers_of
from trainer.drafting.column_names import words_of
from trainer.drafting.column_roles import ColumnRoles, IdColumn
from trainer.drafting.column_types import ColumnType
from trainer.drafting.csv_dialect import Source, open_source
from trainer.drafting.rules import Choices, DataShape, choose
from trainer.recipe.recipe import CLOCK, ID, ITEM_ID, USER_ID


@dataclass(frozen=True)
class EntityTable:
    """A users or items table.

    Attributes:
        source: Opened table.
        id: Column of the id.
        types: Inferred types of the other columns, by name of the attribute.
    """

    source: Source
    id: str
    types: Mapping[str, ColumnType]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the table: kind and further keys, by name."""
        return {name: column.feature for name, column in self.types.items() if column.feature}


@dataclass(frozen=True)
class Draft:
    """The content of a drafted recipe.

    Attributes:
        name: Name of the recipe.
        interactions: Table of events.
        roles: Roles of the columns of the interactions.
        items: Items table; None if there is none.
        users: Users table; None if there is none.
        event_types: Inferred types of the other columns of the interactions, by name of the attribute.
        event_count: Number of rows of the interactions that count.
        left_out_count: Number of rows without a user, an item or a time, which do not count.
        user_count: Number of users in the interactions.
        used_item_count: Number of items in the interactions.
        item_count: Number of items of the catalogue: of the items table, or of the interactions if those are more.
        split: Kind of the split.
        doubts: Warnings: sentences about choices that are not certain.
    """

    name: str
    interactions: Source
    roles: ColumnRoles
    items: EntityTable | None
    users: EntityTable | None
    event_types: Mapping[str, ColumnType]
    event_count: int
    left_out_count: int
    user_count: int
    used_item_count: int
    item_count: int
    split: str
    doubts: Sequence[str] = field(default_factory=tuple)

    @property
    def choices(self) -> Choices:
        """Keys of the towers and of the training, by the shape of the data."""
        return choose(
            DataShape(self.event_count, self.user_count, self.item_count, bool(self.items and self.items.features))
        )


def draft(interactions: Path, items: Path | None, users: Path | None, name: str) -> Draft:
    """Returns the draft of a recipe for some tables.

    Args:
        interactions: Path of the table of events.
        items: Path of the items table; None if there is none.
        users: Path of the users table; None if there is none.
        name: Name of the recipe.

    Raises:
        DataError: A table cannot be read, or the interactions have no two columns that can be ids.
    """
    events = open_source(interactions, may_be_sequences=True)
    sources = {what: None if path is None else open_source(path) for what, path in (("items", items), ("users", users))}
    roles = column_roles.infer(events, sources["items"], sources["users"])
    tables = {
        "items": _entity_table("item", sources["items"], roles.items),
        "users": _entity_table("user", sources["users"], roles.users),
    }
    doubts = list(roles.doubts)
    for name_of_table, table in tables.items():
        doubts += [
            f"{name_of_table}: {column.doubt}" for column in (table.types if table else {}).values() if column.doubt
        ]
    used = {roles.user, roles.item, roles.time, roles.rating, roles.weight, *roles.amounts}
    others = _infer_types([events.frame[c] for c in events.frame.columns if c not in used], {USER_ID, ITEM_ID, *CLOCK})
    doubts += _event_doubts(events, roles, others)
    user_count, used_item_count = (events.frame[name].drop_nulls().n_unique() for name in (roles.user, roles.item))
    item_count = used_item_count
    if sources["items"] is not None:
        item_count = max(item_count, len(sources["items"].frame))
    needed = [name for name in (roles.user, roles.item, roles.time) if name is not None]
    left_out_count = len(events.frame) - len(events.frame.drop_nulls(needed)) if roles.leaves_out else 0
    split, doubt = _split(events.frame[roles.user], roles.time is not None)
    return Draft(
        name,
        events,
        roles,
        tables["items"],
        tables["users"],
        others,
        len(events.frame) - left_out_count,
        left_out_count,
        user_count,
        used_item_count,
        item_count,
        split,
        (*doubts, *doubt),
    )


def relative_path(path: Path, folder: Path) -> str:
    """Returns a path for the recipe in `folder`: relative if it is in that folder or in its parent, else absolute."""
    target, folder = path.resolve(), folder.resolve()
    is_near = target.is_relative_to(folder) or target.is_relative_to(folder.parent)
    return os.path.relpath(target, folder) if is_near else str(target)


def attribute_name(column: str, reserved: Iterable[str]) -> str:
    """Returns a valid name for an attribute that is not in `reserved`: ``release_year`` for ``Release year:token``."""
    name = "_".join(re.sub(r"[^a-z0-9]", "", word) for word in words_of(column)).strip("_") or "attribute"
    name = f"_{name}" if name[0].isdigit() else name
    reserved, number, unique = set(reserved), 1, name
    while unique in reserved:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _entity_table(what: str, source: Source | None, id_column: IdColumn | None) -> EntityTable | None:
    if source is None or id_column is None:
        return None
    reserved = {ID, USER_ID, ITEM_ID, "history"}
    types = _infer_types([source.frame[c] for c in source.frame.columns if c != id_column.column], reserved)
    if what == "user":  # attributes of users are not displayed, so those that are not features are left out
        types = {n: column if column.feature else replace(column, type=None) for n, column in types.items()}
    return EntityTable(source, id_column.column, types)


def _infer_types(columns: Iterable[pl.Series], reserved: Iterable[str]) -> dict[str, ColumnType]:
    """Returns the inferred types of columns, by name of the attribute."""
    types: dict[str, ColumnType] = {}
    for column in columns:
        types[attribute_name(column.name, {*reserved, *types})] = column_types.infer_type(column)
    return types


def _event_doubts(events: Source, roles: ColumnRoles, others: Mapping[str, ColumnType]) -> list[str]:
    """Returns warnings about ratings, amounts, repeated interactions and unused columns of the interactions."""
    doubts: list[str] = []
    if roles.rating is not None:
        numbers, rating = numbers_of(events.frame[roles.rating]), roles.rating
        assert numbers is not None  # a rating is a column of numbers
        doubts.append(
            f"Every row counts as an interaction, whatever its {rating!r} ({numbers.min():g} to {numbers.max():g}); "
            "set interactions.min_rating if low ones mean dislike."
        )
    doubts += [
        f"Column {amount!r} might weigh the interactions (interactions.weight); it is not used."
        for amount in roles.amounts
    ]
    pairs = events.frame.select(roles.user, roles.item)
    repeated = 1 - pairs.n_unique() / max(1, len(pairs))
    if repeated > MANY_REPEATS:
        doubts.append(
            f"{repeated:.0%} of the rows are of an item that their user had before. Only what is new to a user is "
            "measured; set split.repeats = true if repeated interactions should count too."
        )
    usable = [column.column for column in others.values() if column.feature]
    if usable:
        doubts.append(
            f"Not used of the interactions: {', '.join(map(repr, usable))}. As attributes of the event they can help "
            "where they are known when the request is made, such as a device, and mislead where they are not."
        )
    return doubts


def _split(users: pl.Series, has_time: bool) -> tuple[str, list[str]]:
    """Chooses the kind of split: ``leave_last_one_out`` if 20 % of the users have three events, else time or random.

    Args:
        users: User id of each event.
        has_time: Whether the events have times.

    Returns:
        Kind of split, as `trainer.recipe.recipe.Split.kind`, and warnings about the choice.
    """
    counts = users.value_counts()["count"]
    share = float((counts >= 3).mean() or 0)  # type: ignore[arg-type]
    if share >= 0.2:
        return "leave_last_one_out", []
    kind = "global_temporal" if has_time else "random"
    return kind, [f"Only {share:.0%} of the users have three interactions or more, so the split is {kind}."]
