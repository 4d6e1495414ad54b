"""A recipe for a person's tables, as far as they tell, with what is unsure about it."""

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
from trainer.drafting.column_roles import Link, Roles, words_of
from trainer.drafting.column_types import Guess
from trainer.drafting.csv_dialect import Source, open_source
from trainer.recipe.recipe import CLOCK, ID, ITEM_ID, USER_ID

SMALL_CATALOGUE = 20_000
"""Items up to which each step ranks the whole catalogue."""


@dataclass(frozen=True)
class Described:
    """A users or items table.

    Attributes:
        source: as it was opened.
        id: column of the id.
        guesses: what its other columns are taken for, by the name of the attribute.
    """

    source: Source
    id: str
    guesses: Mapping[str, Guess]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Those that make features: kind and further keys by name."""
        return {name: guess.feature for name, guess in self.guesses.items() if guess.feature}


@dataclass(frozen=True)
class Draft:
    """What a recipe is written from.

    Attributes:
        name: of the recipe.
        interactions: the table of events.
        roles: of its columns.
        items: the items table, where there is one.
        users: the users table, where there is one.
        event_guesses: what the other columns of the interactions are taken for, by name.
        event_count: rows of the interactions.
        item_count: of the catalogue.
        split: kind of the split.
        doubts: what is not sure, a sentence each.
    """

    name: str
    interactions: Source
    roles: Roles
    items: Described | None
    users: Described | None
    event_guesses: Mapping[str, Guess]
    event_count: int
    item_count: int
    split: str
    doubts: Sequence[str] = field(default_factory=tuple)

    @property
    def training(self) -> dict[str, Any]:
        """Returns the keys of ``[training]``: fewer epochs and larger steps the more there is to learn from."""
        sizes = ((20_000, 30, 256), (200_000, 20, 1024), (2_000_000, 10, 2048))
        epochs, batch_size = next(((e, b) for most, e, b in sizes if self.event_count <= most), (5, 4096))
        keys: dict[str, Any] = {"dimension": 32 if self.item_count < 1000 else 64}
        keys |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": 2e-3, "patience": 5}
        if self.item_count <= SMALL_CATALOGUE:
            return {**keys, "loss": "full_softmax"}
        return {**keys, "loss": "sampled_softmax", "negatives": 2048}


def draft(interactions: Path, items: Path | None, users: Path | None, name: str) -> Draft:
    """Returns what the tables tell.

    Args:
        interactions: the table of events.
        items: the items table.
        users: the users table.
        name: of the recipe.

    Raises:
        DataError: a table cannot be read, or holds no two columns of ids.
    """
    events = open_source(interactions)
    sources = {what: None if path is None else open_source(path) for what, path in (("items", items), ("users", users))}
    found = column_roles.infer(events, sources["items"], sources["users"])
    described = {
        "items": _describe("item", sources["items"], found.items),
        "users": _describe("user", sources["users"], found.users),
    }
    doubts = list(found.doubts)
    for table, entity in described.items():
        doubts += [f"{table}: {guess.doubt}" for guess in (entity.guesses if entity else {}).values() if guess.doubt]
    taken = {found.user, found.item, found.time, found.rating, found.weight, *found.amounts}
    rest = _guesses([events.frame[c] for c in events.frame.columns if c not in taken], {USER_ID, ITEM_ID, *CLOCK})
    doubts += _event_doubts(events, found, rest)
    item_count = events.frame[found.item].n_unique()
    if sources["items"] is not None:
        item_count = max(item_count, len(sources["items"].frame))
    split, doubt = _split(events.frame[found.user], found.time is not None)
    return Draft(
        name,
        events,
        found,
        described["items"],
        described["users"],
        rest,
        len(events.frame),
        item_count,
        split,
        (*doubts, *doubt),
    )


def relative_path(path: Path, folder: Path) -> str:
    """Returns a path as the recipe in `folder` names it: relative where it is in that folder or beside it."""
    target, folder = path.resolve(), folder.resolve()
    near = target.is_relative_to(folder) or target.is_relative_to(folder.parent)
    return os.path.relpath(target, folder) if near else str(target)


def attribute_name(column: str, taken: Iterable[str]) -> str:
    """Returns a name that a recipe allows: ``Release year:token`` is ``release_year``."""
    name = "_".join(re.sub(r"[^a-z0-9]", "", word) for word in words_of(column)).strip("_") or "attribute"
    name = f"_{name}" if name[0].isdigit() else name
    taken, number, unique = set(taken), 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _describe(what: str, source: Source | None, link: Link | None) -> Described | None:
    if source is None or link is None:
        return None
    reserved = {ID, USER_ID, ITEM_ID, "history"}
    guesses = _guesses([source.frame[c] for c in source.frame.columns if c != link.column], reserved)
    if what == "user":  # nobody is shown attributes of users, so those that are no feature are left out
        guesses = {n: guess if guess.feature else replace(guess, type=None) for n, guess in guesses.items()}
    return Described(source, link.column, guesses)


def _guesses(columns: Iterable[pl.Series], reserved: Iterable[str]) -> dict[str, Guess]:
    found: dict[str, Guess] = {}
    for column in columns:
        found[attribute_name(column.name, {*reserved, *found})] = column_types.guess(column)
    return found


def _event_doubts(events: Source, found: Roles, rest: Mapping[str, Guess]) -> list[str]:
    doubts: list[str] = []
    if found.rating is not None:
        numbers, rating = events.frame[found.rating].cast(pl.Float64), found.rating
        doubts.append(
            f"Every row counts as an interaction, whatever its {rating!r} ({numbers.min():g} to {numbers.max():g}); "
            "set interactions.min_rating if low ones mean dislike."
        )
    doubts += [
        f"Column {amount!r} might weigh the interactions (interactions.weight); it is not used."
        for amount in found.amounts
    ]
    pairs = events.frame.select(found.user, found.item)
    repeated = 1 - pairs.n_unique() / max(1, len(pairs))
    if repeated > MANY_REPEATS:
        doubts.append(
            f"{repeated:.0%} of the rows are of an item that their user had before. Only what is new to a user is "
            "measured; set split.repeats = true if what people take again should count too."
        )
    usable = [guess.column for guess in rest.values() if guess.feature]
    if usable:
        doubts.append(
            f"Not used of the interactions: {', '.join(map(repr, usable))}. As attributes of the event they can help "
            "where they are known when the request is made, such as a device, and mislead where they are not."
        )
    return doubts


def _split(users: pl.Series, has_time: bool) -> tuple[str, list[str]]:
    """Returns the kind of the split, and what to say of it."""
    counts = users.value_counts()["count"]
    share = float((counts >= 3).mean() or 0)  # type: ignore[arg-type]
    if share >= 0.2:
        return "leave_last_one_out", []
    kind = "global_temporal" if has_time else "random"
    return kind, [f"Only {share:.0%} of the users have three interactions or more, so the split is {kind}."]
