"""Reads the table of interactions, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from trainer.data import spill
from trainer.data.events import RELEVANCE
from trainer.data.sequences import read_sequences
from trainer.data.served import table as served
from trainer.data.tables import Table
from trainer.errors import DataError, RecipeError
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe
from trainer.recipe.tables import Attribute

ATTRIBUTE = "attribute:"
"""Prefix of the names of attributes in a frame of interactions, which keeps them apart from its other columns."""
_ADVICE = 'fill it in, remove the row, or leave out all such rows with interactions.missing = "leave_out"'
SPLIT_COLUMN = "split column"
"""Name of the part (train, valid, test) among the attributes of the events, where a column holds it."""


def read_events(recipe: Recipe, folder: Path, notes: list[str]) -> Iterator[pl.DataFrame]:
    """Yields the events in order of the file, in frames of about `trainer.data.spill.BLOCK` rows.

    ``user`` and ``item`` are text, ``time`` and ``weight`` are Float64, and attributes are called `ATTRIBUTE` and their
    name. If the table has no time, ``time`` is the row number. Rows below `Interactions.min_rating` are left out.

    Args:
        recipe: Recipe that names the table.
        folder: Folder that the recipe's paths are relative to.
        notes: List to which notes on cells are added that were read other than they are written.

    Raises:
        DataError: A table cannot be used; names file, column and row.
    """
    source = recipe.interactions
    if source.format == "sequences":
        yield read_sequences(folder / source.path)
        return
    path, columns = folder / source.path, _columns(recipe)
    count = left_out = whole = 0
    noted: dict[tuple[str, str], str] = {}
    for table in _tables(recipe, path, columns, notes):
        frame = _read_block(recipe, table)
        noted = {**table.notes, **noted}  # of each kind, the first
        whole += len(table)
        if source.missing == "leave_out":
            with_missing = frame.height
            frame = frame.drop_nulls(("user", "item", "time"))
            left_out += with_missing - frame.height
        count += frame.height
        yield frame
    notes += noted.values()
    if left_out:
        notes.append(
            f"{left_out:,} of {left_out + count:,} interactions have no user, item or time and are left out "
            "(interactions.missing)."
        )
    if not count and left_out == whole:
        raise DataError(f"{path}: every row lacks a user, an item or a time")
    if not count:
        others = f", but for {left_out:,} that lack a user, an item or a time" if left_out else ""
        raise DataError(f"{path}: no row has {source.rating} of at least {source.min_rating}{others}")


def _tables(recipe: Recipe, path: Path, columns: list[str], notes: list[str]) -> Iterator[Table]:
    """Yields the table of interactions in blocks; a served log is one block."""
    source = recipe.interactions
    if source.format == "served":
        lists = {attribute.column for attribute in source.attributes.values() if attribute.type == "string_list"}
        frame = served.read(path, list(dict.fromkeys(columns)), lists, notes)
        history = next((each.name for each in recipe.query_tower.features if isinstance(each, HistoryInput)), None)
        if history is not None and source.relevance is not None:
            used = frame.filter(pl.col(source.relevance) > 0)
            if used.height < frame.height:
                notes.append(
                    f"{frame.height - used.height:,} items that were passed over are not trained on, because the query "
                    f"tower reads the history {history}, which is made of the items that a user interacted with."
                )
            frame = used
        yield Table.of_rows(path, frame, 0)
        return
    yield from Table.blocks(path, columns, source.separator, source.quote, spill.BLOCK)


def _columns(recipe: Recipe) -> list[str]:
    source = recipe.interactions
    if source.user is None or source.item is None:
        raise RecipeError("interactions.user and interactions.item: missing; a table needs both columns")
    columns = [source.user, source.item, source.time, source.weight, source.relevance, source.rating]
    columns += [attribute.column for attribute in source.attributes.values()]
    columns.append(recipe.split.column if recipe.split.kind == "column" else None)
    return [column for column in columns if column is not None]


def _read_block(recipe: Recipe, table: Table) -> pl.DataFrame:
    source = recipe.interactions
    required = source.missing == "refuse"
    row = pl.Series("row", np.arange(table.first_row, table.first_row + len(table)), dtype=pl.Float64)
    frame = pl.DataFrame(
        {
            "user": table.ids(source.user, required=required, advice=_ADVICE),
            "item": table.ids(source.item, required=required, advice=_ADVICE),
            "time": row if source.time is None else table.times(source.time, required=required),
            "weight": pl.Series("weight", np.ones(len(table)))
            if source.weight is None
            else table.floats(source.weight, required=True),
        }
    )
    rating = None if source.rating is None or source.min_rating is None else table.floats(source.rating, required=True)
    frame = frame.with_columns(
        read_attribute(table, attribute).alias(ATTRIBUTE + name) for name, attribute in source.attributes.items()
    )
    if recipe.split.kind == "column" and recipe.split.column is not None:
        parts = table.choices(recipe.split.column, ("train", "valid", "test"))
        frame = frame.with_columns(parts.alias(ATTRIBUTE + SPLIT_COLUMN))
    if source.weight is not None and (frame["weight"] <= 0).any():
        bad = (frame["weight"] <= 0).arg_true()[0]
        raise DataError(
            f"{table.path}, column {source.weight!r}: {table.place(bad)}: {frame['weight'][bad]} is not a weight; "
            "weights are above 0, remove the row or leave out interactions.weight"
        )
    if source.relevance is not None:
        relevance = table.floats(source.relevance, required=True)
        if len(bad := ((relevance < 0) | (relevance > 1)).arg_true()):
            raise DataError(
                f"{table.path}, column {source.relevance!r}: {table.place(bad[0])}: {relevance[bad[0]]} is not a "
                "relevance; give numbers of 0 to 1, such as a grade / the best"
            )
        frame = frame.with_columns(relevance.alias(ATTRIBUTE + RELEVANCE))
    if rating is not None:
        frame = frame.filter(rating >= source.min_rating)
    return frame


def read_attribute(table: Table, attribute: Attribute) -> pl.Series:
    """Returns the values of an attribute of a table, null where missing."""
    if attribute.missing:
        table.mark_missing(attribute.column, attribute.missing)
    match attribute.type:
        case "int":
            return table.ints(attribute.column, decimal=attribute.decimal)
        case "float":
            return table.floats(attribute.column, decimal=attribute.decimal)
        case "string_list":
            return table.string_lists(attribute.column, attribute.separator)
        case "string":
            return table.strings(attribute.column)
