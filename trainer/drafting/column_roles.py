"""Infers which columns are user, item and time, from names, from content, and from the ids of the other tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import permutations

import polars as pl

from trainer.data.cells import to_ids
from trainer.drafting.column_content import floor_of, id_score, is_epoch, may_be_id, numbers_of, time_score
from trainer.drafting.column_names import names_id, names_role, words_of
from trainer.drafting.csv_dialect import Source
from trainer.errors import DataError

_UNSURE = 1.5
"""Difference of the scores of two columns below which a warning names the second one too."""


@dataclass(frozen=True)
class IdColumn:
    """The id column of a users or items table.

    Attributes:
        column: Name of the column.
        overlap: Share of the ids of the interactions that are in the column.
        coverage: Share of the ids of the column that are in the interactions.
        is_unique: Whether no id is duplicated or missing.
        score: Score of the column; the column with the highest score is chosen.
    """

    column: str
    overlap: float
    coverage: float
    is_unique: bool
    score: float


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of the columns of the interactions.

    Attributes:
        user: Column of the user id.
        item: Column of the item id.
        users: Id column of the users table; None without such a table.
        items: Id column of the items table; None without such a table.
        time: Column of the time; None if the order of the rows is used.
        rating: Column of a rating; None if there is none.
        weight: Column of a weight whose values are all above 0; None if there is none.
        leaves_out: Whether rows without a user, an item or a time are left out.
        amounts: Columns that might be used as a weight.
        doubts: Warnings: sentences about choices that are not certain.
    """

    user: str
    item: str
    users: IdColumn | None
    items: IdColumn | None
    time: str | None
    rating: str | None
    weight: str | None
    amounts: tuple[str, ...]
    leaves_out: bool
    doubts: tuple[str, ...]


def infer(interactions: Source, items: Source | None, users: Source | None) -> ColumnRoles:
    """Returns the roles of the columns of the interactions.

    Args:
        interactions: Table of events.
        items: Items table, if there is one.
        users: Users table, if there is one.

    Raises:
        DataError: No two columns can be ids.
    """
    frame, doubts = interactions.frame, []
    suitable = [
        name
        for name in frame.columns
        if may_be_id(frame[name]) or may_be_id(frame[name], is_known=_is_known(frame[name], (items, users)))
    ]
    if len(suitable) < 2:
        raise DataError(
            f"{interactions.path}: no two columns can be a user and an item: with more than one value, and without "
            f"empty cells unless they are named so; its columns are {', '.join(map(_describe_column, frame))}"
        )
    id_columns = {
        "user": {name: _match_ids(frame[name], users) for name in suitable},
        "item": {name: _match_ids(frame[name], items) for name in suitable},
    }

    def score(role: str, name: str) -> float:
        id_column, other = id_columns[role][name], "item" if role == "user" else "user"
        named = 3.0 * names_role(name, role) - 3.0 * names_role(name, other)
        return named + id_score(frame[name]) + (0.0 if id_column is None else id_column.score)

    ranked = sorted(
        permutations(suitable, 2), key=lambda pair: score("user", pair[0]) + score("item", pair[1]), reverse=True
    )
    user, item = ranked[0]
    for role, chosen in (("user", user), ("item", item)):
        id_column = id_columns[role][chosen]
        if not names_role(chosen, role) and (id_column is None or id_column.overlap < 0.9):
            doubts.append(f"interactions.{role} is column {chosen!r}, though its name does not say so.")
        near = [
            name for name in suitable if name not in (user, item) and score(role, chosen) - score(role, name) < _UNSURE
        ]
        if near:
            doubts.append(f"interactions.{role} is column {chosen!r}; it might be {_either(near)} instead.")
    if score("user", user) + score("item", item) - score("user", item) - score("item", user) < _UNSURE:
        doubts.append(f"interactions.user is {user!r} and .item {item!r}; it might be the other way round.")
    for role, source, chosen in (("user", users, user), ("item", items, item)):
        doubts += _id_doubts(role, source, chosen, id_columns[role][chosen])
    roles = ColumnRoles(
        user, item, id_columns["user"][user], id_columns["item"][item], None, None, None, (), False, tuple(doubts)
    )
    return _infer_others(interactions, roles)


def _infer_others(interactions: Source, roles: ColumnRoles) -> ColumnRoles:
    frame, doubts = interactions.frame, list(roles.doubts)
    rest = [name for name in frame.columns if name not in (roles.user, roles.item)]
    scores = {name: time_score(interactions.frame[name]) for name in rest}
    candidates = sorted((name for name in rest if scores[name] >= 3), key=lambda name: -scores[name])
    time = None
    for name in candidates:
        try:
            times = interactions.table.times(name, required=False)
        except DataError as error:
            doubts.append(f"Column {name!r} seems to hold times that cannot be read, so it is left out: {error}.")
            continue
        time = name
        others = [other for other in candidates if other != name and scores[name] - scores[other] < _UNSURE]
        if others:
            doubts.append(f"interactions.time is column {name!r}; it might be {_either(others)} instead.")
        numbers = numbers_of(frame[name])
        if numbers is not None and not is_epoch(numbers):
            doubts.append(
                f"interactions.time is column {name!r}, whose numbers are not seconds since 1970: they serve as the "
                "order of events, not as dates."
            )
        if frame[name].dtype == pl.String and numbers is None:
            doubts += _date_doubts(name, frame[name], times)
        doubts += interactions.table.notes_of(name)
        break
    if time is None:
        doubts.append("No column holds a time that can be read: the order of the rows counts as the order of time.")
    numbers = [name for name in rest if name != time and numbers_of(frame[name]) is not None]
    rating = next((name for name in numbers if names_role(name, "rating")), None)
    weight = next(
        (n for n in numbers if names_role(n, "weight") and n != rating and (floor_of(frame[n]) or 0) > 0), None
    )
    amounts = tuple(n for n in numbers if names_role(n, "amount") and n not in (rating, weight))
    needed = [name for name in (roles.user, roles.item, time) if name is not None]
    doubts += _missing_doubts(interactions, needed)
    leaves_out = any(frame[name].null_count() for name in needed)
    return replace(
        roles, time=time, rating=rating, weight=weight, amounts=amounts, leaves_out=leaves_out, doubts=tuple(doubts)
    )


def _missing_doubts(interactions: Source, needed: Sequence[str]) -> list[str]:
    """Returns a warning for each column of which every row needs a value, and some rows have none."""
    doubts: list[str] = []
    for name in needed:
        empty = interactions.frame[name].is_null()
        if count := int(empty.sum()):
            first = interactions.table.place(empty.arg_true()[0])
            doubts.append(
                f"{count:,} of {len(empty):,} rows have no {name!r} (the first is {first}): a training leaves them out "
                "(interactions.missing); fill them in if they count."
            )
    return doubts


def _describe_column(series: pl.Series) -> str:
    missing = series.null_count()
    return repr(series.name) + (f" ({missing:,} empty cells)" if missing else "")


def _date_doubts(name: str, cells: pl.Series, times: pl.Series) -> list[str]:
    """Returns a warning that shows how a date is read, if its form leaves the order of day and month open.

    The list is empty if the form is clear: the year comes first, or a cell has a first number above 12, which is a day.
    """
    present = (cells.is_not_null() & times.is_not_null()).arg_true()
    if not len(present) or cells[present[0]][:4].isdigit():
        return []
    first_numbers = cells.filter(times.is_not_null()).str.extract(r"^\s*(\d{1,2})[./-]", 1).cast(pl.Int64, strict=False)
    if (first_numbers > 12).any():
        return []
    cell = cells[present[0]]
    read = datetime.fromtimestamp(times[present[0]], UTC).strftime("%Y-%m-%d")
    return [f"{cell!r} in {name!r} is read as {read}; write dates as year-month-day if that is wrong."]


def _match_ids(event_ids: pl.Series, source: Source | None) -> IdColumn | None:
    """Returns the id column of a users or items table: the one that matches the ids of the interactions best.

    Returns None if `source` is None.
    """
    if source is None:
        return None
    ids = _as_read(event_ids).unique()
    columns: list[IdColumn] = []
    for position, name in enumerate(source.frame.columns):
        column = source.frame[name]
        if isinstance(column.dtype, pl.List | pl.Struct):
            continue
        known = _as_read(column.drop_nulls())
        distinct = known.unique()
        overlap = float(ids.is_in(distinct.implode()).mean() or 0.0)  # type: ignore[arg-type]
        coverage = float(distinct.is_in(ids.implode()).mean() or 0.0) if len(distinct) else 0.0  # type: ignore[arg-type]
        is_unique = len(distinct) == len(column)
        is_named = 1.5 * names_id(name) + (words_of(name) == words_of(event_ids.name))
        columns.append(
            IdColumn(
                name, overlap, coverage, is_unique, 3 * overlap + coverage + is_unique + is_named - 0.01 * position
            )
        )
    return max(columns, key=lambda column: column.score) if columns else None


def _is_known(event_ids: pl.Series, sources: Sequence[Source | None]) -> bool:
    """Returns whether nearly all values of a column are ids of one of the tables, None where there is no table."""
    if isinstance(event_ids.dtype, pl.List | pl.Struct):
        return False
    matches = (_match_ids(event_ids.drop_nulls(), source) for source in sources)
    return any(match is not None and match.overlap > 0.9 for match in matches)


def _as_read(ids: pl.Series) -> pl.Series:
    """Returns ids as a training reads them."""
    try:
        return to_ids(ids, lambda what, example: None)
    except ValueError:  # they are refused then; a column of such numbers matches nothing
        return ids.cast(pl.String)


def _id_doubts(role: str, source: Source | None, column: str, id_column: IdColumn | None) -> list[str]:
    """Returns warnings about the ids of a users or items table; an empty list if there is nothing to warn about.

    Args:
        role: Word ``user`` or ``item``.
        source: Users or items table; None if there is none.
        column: Column of the id in the interactions.
        id_column: Column of the id in the table, and its match with the interactions; None if there is no table.
    """
    if source is None or id_column is None:
        return []
    doubts: list[str] = []
    if id_column.overlap < 0.9:
        doubts.append(
            f"Only {id_column.overlap:.0%} of the ids in column {column!r} are in column {id_column.column!r} of "
            f"{source.path.name}: is that its id, written the same way ('7' and '007' differ)?"
        )
    if not id_column.is_unique:
        doubts.append(
            f"Column {id_column.column!r} of {source.path.name} is its likeliest id, but an id is missing or "
            f"duplicated; `train` refuses that: keep one row for each {role}."
        )
    return doubts


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
