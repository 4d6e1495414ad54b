"""A data set in memory: the events in time order, the catalogue and the users, by dense row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bundle.items import COLUMN_TYPES, Column, ItemTable
from trainer.errors import DataError, RecipeError
from trainer.recipe import Recipe
from trainer.recipe_tables import Attribute, Entities
from trainer.sequences import read_sequences
from trainer.tables import Table

_ATTRIBUTE = "attribute:"
"""Stands before the names of event attributes in the frame of the interactions, apart from its other columns."""
SPLIT_COLUMN = "split column"
"""Name among the attributes of an event of the part that it is of, where a column says so: no feature can have it."""


@dataclass(frozen=True)
class Events:
    """Interactions, sorted by user, then time, then row of the file.

    Attributes:
        users: [n] int32 rows into `Dataset.user_ids`.
        items: [n] int32 rows into `Dataset.items`.
        times: [n] float64 seconds since 1970; the row where the table has no time.
        weights: [n] float32, 1 where the table has none.
        attributes: of each event, by name: [n] int64 where every event has a whole number, else object, None where
            missing. What the recipe reads of the interactions, and `hour` and `weekday` (UTC, Monday is 0) where a
            feature asks for them.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    weights: np.ndarray
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.users)

    def where(self, mask: np.ndarray) -> Events:
        """Returns those at which `mask` [n] bool is true; the order stays."""
        return self.take(np.flatnonzero(mask))

    def take(self, rows: np.ndarray) -> Events:
        """Returns the events at `rows` [m] int64, in their order."""
        return Events(
            self.users[rows],
            self.items[rows],
            self.times[rows],
            self.weights[rows],
            {name: values[rows] for name, values in self.attributes.items()},
        )

    def followed_by(self, others: Events) -> Events:
        """Returns these and then `others`, which have the same attributes: [n + m], not sorted."""
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("users", "items", "times", "weights"))
        return Events(
            *(np.concatenate(pair) for pair in pairs),
            {name: np.concatenate([values, others.attributes[name]]) for name, values in self.attributes.items()},
        )

    def starts(self, user_count: int) -> np.ndarray:
        """Returns [user_count + 1] int64: the events of user u are ``starts[u]`` to ``starts[u + 1]``."""
        return np.searchsorted(self.users, np.arange(user_count + 1))

    @property
    def pairs(self) -> np.ndarray:
        """The distinct (user, item) pairs: [m, 2] int32, sorted."""
        return np.unique(np.stack([self.users, self.items], axis=1), axis=0)

    def item_counts(self, item_count: int) -> np.ndarray:
        """Returns how many events each item has: [item_count] int64."""
        return np.bincount(self.items, minlength=item_count)


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


def load(recipe: Recipe, folder: Path) -> Dataset:
    """Returns the data set of a recipe.

    Args:
        recipe: names the tables.
        folder: that its paths are relative to.

    Raises:
        DataError: names file, column and row of what is wrong.
    """
    notes: list[str] = []
    sequences = recipe.interactions.format == "sequences"
    interactions = read_sequences(folder / recipe.interactions.path) if sequences else _read_events(recipe, folder)
    user_ids, user_columns = _read_entities(recipe.users, folder, interactions["user"], "user", notes)
    item_ids, item_columns = _read_entities(recipe.items, folder, interactions["item"], "item", notes)
    events = _index(interactions, user_ids, item_ids)
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


def _read_events(recipe: Recipe, folder: Path) -> pl.DataFrame:
    source = recipe.interactions
    if source.user is None or source.item is None:
        raise RecipeError("interactions.user and interactions.item: missing; a table needs both columns")
    columns = [source.user, source.item, source.time, source.weight, source.rating]
    columns += [attribute.column for attribute in source.attributes.values()]
    columns.append(recipe.split.column if recipe.split.kind == "column" else None)
    table = Table(folder / source.path, [c for c in columns if c is not None], source.separator, source.quote)
    row = pl.Series("row", np.arange(len(table)), dtype=pl.Float64)
    frame = pl.DataFrame(
        {
            "user": table.strings(source.user, required=True),
            "item": table.strings(source.item, required=True),
            "time": row if source.time is None else table.times(source.time),
            "weight": pl.Series("weight", np.ones(len(table)))
            if source.weight is None
            else table.floats(source.weight, required=True),
        }
    )
    rating = None if source.rating is None or source.min_rating is None else table.floats(source.rating, required=True)
    frame = frame.with_columns(
        _read_attribute(table, attribute).alias(_ATTRIBUTE + name) for name, attribute in source.attributes.items()
    )
    if recipe.split.kind == "column" and recipe.split.column is not None:
        parts = table.choices(recipe.split.column, ("train", "valid", "test"))
        frame = frame.with_columns(parts.alias(_ATTRIBUTE + SPLIT_COLUMN))
    if source.weight is not None and (frame["weight"] <= 0).any():
        bad = (frame["weight"] <= 0).arg_true()[0]
        raise DataError(
            f"{table.path}, column {source.weight!r}: {frame['weight'][bad]} in data row {bad + 1} is no weight; "
            "weights are above 0, remove the row or leave out interactions.weight"
        )
    if rating is not None:
        frame = frame.filter(rating >= source.min_rating)
        if frame.is_empty():
            raise DataError(f"{table.path}: no row has {source.rating} of at least {source.min_rating}")
    return frame


def _read_entities(
    source: Entities | None, folder: Path, met: pl.Series, what: str, notes: list[str]
) -> tuple[list[str], dict[str, list[Any]]]:
    """Returns ids, and attribute columns of raw values, of those in the table and those met in interactions."""
    known = met.unique()
    if source is None:
        return known.sort().to_list(), {}
    frame = read_entities(source, folder / source.path)
    undescribed = known.filter(~known.is_in(frame["id"].implode())).sort()
    if len(undescribed):
        notes.append(
            f"{len(undescribed):,} of {len(known):,} {what}s of the interactions are not in {source.path} "
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
        _read_attribute(table, a).alias(name) for name, a in source.attributes.items()
    )


def _read_attribute(table: Table, attribute: Attribute) -> pl.Series:
    if attribute.missing:
        table.mark_missing(attribute.column, attribute.missing)
    match attribute.type:
        case "int":
            return table.ints(attribute.column)
        case "float":
            return table.floats(attribute.column)
        case "string_list":
            return table.string_lists(attribute.column, attribute.separator)
        case "string":
            return table.strings(attribute.column)


def _index(frame: pl.DataFrame, user_ids: list[str], item_ids: list[str]) -> Events:
    def rows(column: str, ids: list[str]) -> pl.Series:
        lookup = pl.DataFrame({column: ids, "row": np.arange(len(ids), dtype=np.int32)})
        return frame.join(lookup, on=column, how="left", maintain_order="left")["row"]

    indexed = frame.with_columns(
        rows("user", user_ids).alias("user"),
        rows("item", item_ids).alias("item"),
        pl.col("weight").cast(pl.Float32),
    ).sort("user", "time", maintain_order=True)
    return Events(
        *(indexed[name].to_numpy() for name in ("user", "item", "time", "weight")),
        {
            name.removeprefix(_ATTRIBUTE): _to_numpy(indexed[name])
            for name in indexed.columns
            if name.startswith(_ATTRIBUTE)
        },
    )


def _to_numpy(series: pl.Series) -> np.ndarray:
    """Returns [n] int64 of whole numbers that are all there, else [n] object, None where missing."""
    if series.dtype == pl.Int64 and not series.null_count():
        return series.to_numpy()
    values = np.empty(len(series), dtype=object)
    for row, value in enumerate(series.to_list()):  # an assignment at once would make a matrix of equally long lists
        values[row] = value
    return values


def _clock(recipe: Recipe, events: Events) -> dict[str, np.ndarray]:
    """Returns what features of the query tower ask of the times, where no attribute has the name already."""
    asked = {feature.name for feature in recipe.query_tower.features}
    taken = {*recipe.interactions.attributes, *(() if recipe.users is None else recipe.users.attributes)}
    return {name: derive(events.times) for name, derive in _CLOCK.items() if name in asked - taken}
