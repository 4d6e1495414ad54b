"""Reads the features of the query tower from the columns of a table of users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

import polars as pl

from retrieval.bundle.features.event_kinds import EventValue, HistoryTimes, RequestTime
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import Feature
from trainer.data.interactions import read_attribute
from trainer.data.tables import Table
from trainer.errors import RecipeError
from trainer.recipe.recipe import USER_ID, Recipe, query_attributes
from trainer.recipe.tables import Attribute

_SEPARATOR = "|"
"""Separator of the values of a list in a text cell that is not a list as JSON writes it."""

Read = Callable[[Table], pl.Series]
"""Function that reads the values of a feature from a table, null where missing."""


@dataclasses.dataclass(frozen=True)
class FeatureColumn:
    """The column of a table that holds a feature.

    Attributes:
        feature: Feature of the query tower.
        column: Name of the column.
        read: Function that reads the raw values of the feature.
    """

    feature: Feature
    column: str
    read: Read


def column_of(feature: Feature, recipe: Recipe, id_column: str, names: Container[str]) -> FeatureColumn | None:
    """Returns the column of a table of users that holds a feature; None if it has no such column.

    It is the column that the recipe names for the attribute of this name, or else the column with the name of the
    feature.

    Args:
        feature: Feature of the query tower.
        recipe: Recipe of the bundle.
        id_column: Column of the ids of the users.
        names: Names of the columns of the table.

    Raises:
        RecipeError: The recipe gives the attribute a type that the feature cannot have.
    """
    if feature.name == USER_ID:
        return FeatureColumn(feature, id_column, lambda table: table.ids(id_column))
    attribute = query_attributes(recipe).get(feature.name)
    if attribute is not None and attribute.column in names:
        _check_type(feature, attribute)
        return FeatureColumn(feature, attribute.column, lambda table: read_attribute(table, attribute))
    if feature.name in names:
        return FeatureColumn(feature, feature.name, _reader(feature))
    return None


def read_item_ids(table: Table, column: str) -> pl.Series:
    """Returns a column of lists of item ids as lists of text; an empty cell is an empty list.

    Raises:
        DataError: The ids are floating-point numbers.
    """
    raw = table.frame[column]
    if isinstance(raw.dtype, pl.List) and raw.dtype.inner in (pl.Float32, pl.Float64):
        present = (raw.list.len() > 0).fill_null(value=False)
        table.refuse(
            column, present, "holds floating-point numbers, which are no item ids; write text or whole numbers"
        )
    return table.string_lists(column, _SEPARATOR).fill_null([])


def check_lengths(table: Table, column: str, values: pl.Series, history: str, ids: pl.Series) -> None:
    """Checks that lists that describe the events of histories are as long as these, or empty.

    Raises:
        DataError: A list has another length; names file, column and row.
    """
    lengths = values.list.len().fill_null(0)
    bad = (lengths > 0) & (lengths != ids.list.len())
    what = f"has another number of values than the column {history!r}; give one for each item, or an empty cell"
    table.refuse(column, bad, what)


def _check_type(feature: Feature, attribute: Attribute) -> None:
    if isinstance(feature, MultiCategorical):
        allowed: tuple[str, ...] = ("string_list",)
    elif isinstance(feature, Numeric):
        allowed = ("int", "float")
    else:
        allowed = (feature.value_type,)
    if attribute.type not in allowed:
        raise RecipeError(
            f"the recipe of the bundle gives {feature.name!r} the type {attribute.type}, its query tower reads a "
            f"{feature.kind} feature of type {feature.value_type}; publish the bundle again"
        )


def _reader(feature: Feature) -> Read:
    """Returns the function that reads a feature from the column of its name."""
    name = feature.name
    if isinstance(feature, History):
        return lambda table: _as_type(table, name, read_item_ids(table, name), feature.value_type)
    if isinstance(feature, HistoryTimes):
        return lambda table: _read_values(table, name, "float")
    if isinstance(feature, EventValue):
        return lambda table: _read_values(table, name, feature.value_type)
    if isinstance(feature, MultiCategorical):
        return lambda table: _as_type(table, name, table.string_lists(name, _SEPARATOR), feature.value_type)
    if isinstance(feature, RequestTime):
        return lambda table: table.times(name, required=False)
    if isinstance(feature, Numeric):
        return lambda table: table.floats(name)
    if isinstance(feature, Categorical) and feature.value_type == "int":
        return lambda table: table.ints(name)
    return lambda table: table.strings(name)


def _read_values(table: Table, column: str, value_type: str) -> pl.Series:
    """Returns a column of lists that describe events; a null among the values of a list stays, and means missing."""
    raw = table.frame[column]
    if not isinstance(raw.dtype, pl.List):
        return _as_type(table, column, table.string_lists(column, _SEPARATOR), value_type)
    if isinstance(raw.dtype.inner, pl.Datetime | pl.Date):
        return raw.list.eval(pl.element().cast(pl.Datetime("us")).dt.epoch("us") / 1e6)
    return _as_type(table, column, raw, value_type)


def _as_type(table: Table, column: str, lists: pl.Series, value_type: str) -> pl.Series:
    """Returns lists with values of a type.

    Raises:
        DataError: A value is not of the type, or is infinite; names file, column and row.
    """
    inner = {"string": pl.String, "int": pl.Int64, "float": pl.Float64}[value_type]
    typed = lists.cast(pl.List(inner), strict=False)
    missing, given = (
        typed.list.eval(pl.element().is_null()).list.sum(),
        lists.list.eval(pl.element().is_null()).list.sum(),
    )
    bad = (missing > given).fill_null(value=False)
    if value_type == "float":
        bad |= typed.list.eval(pl.element().is_infinite()).list.any().fill_null(value=False)
    table.refuse(column, bad, f"holds a value that is no {_WORDS[value_type]}; mend it, or empty the cell")
    return typed


_WORDS = {"string": "text", "int": "whole number", "float": "finite number"}
