"""The users that get a list: those of a table, or those of the interactions, in batches of equal size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from retrieval.bundle.catalogue.string_table import Strings
from retrieval.bundle.features.event_kinds import EventValue
from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema
from trainer.data.table_files import column_names
from trainer.data.tables import Table
from trainer.errors import DataError
from trainer.recipe.recipe import USER_ID, Recipe
from trainer.recommending.feature_columns import FeatureColumn, check_lengths, column_of, read_item_ids
from trainer.recommending.histories import Histories

EXCLUDED = "exclude_item_ids"
"""Optional column of a table of users: further items to leave out, a list of item ids."""

_ID, _FEATURE = "id", "feature:"
"""Names of columns of a batch: the id of the user, and the prefix of each feature."""
_BLOCK = 2**16
"""Number of rows that are read of a table at once."""


@dataclass(frozen=True)
class Queries:
    """The queries of some users.

    Attributes:
        columns: Raw values by feature name, [n] each, as `FeatureSchema.encode` takes them.
        known: Items that the users know: positions among the users and item rows, [m] int64 each; -1 for an item that
            the catalogue lacks.
        excluded: Further items to leave out, in the same form.
        history_lengths: [n] number of events in the history of each user.
    """

    columns: dict[str, list[Any]]
    known: tuple[np.ndarray, np.ndarray]
    excluded: tuple[np.ndarray, np.ndarray]
    history_lengths: np.ndarray


class Users:
    """The users of one run. Safe for several threads.

    Attributes:
        missing: Names of the features that no column holds, so that they are missing for all users.
        count: Number of users; 0 before `check`.
    """

    def __init__(
        self,
        path: Path | None,
        histories: Histories | None,
        recipe: Recipe,
        schema: FeatureSchema,
        catalogue: Strings,
    ) -> None:
        """Finds the columns of the features; reads no row yet.

        Args:
            path: Table of users. None: the users are those of the histories.
            histories: Histories from a table of interactions. None: the histories are columns of the table of users.
            recipe: Recipe of the bundle, which names the columns.
            schema: Schema of the query tower.
            catalogue: Item ids of the bundle.

        Raises:
            DataError: The table cannot be read, has no column of ids, or has histories although `histories` is given.
            RecipeError: An attribute of the recipe has a type that the query tower cannot read.
        """
        self._path, self._histories, self._schema, self._catalogue = path, histories, schema, catalogue
        self._separator, self._quote = (
            (",", '"') if recipe.users is None else (recipe.users.separator, recipe.users.quote)
        )
        self._item_rows = np.zeros(0, dtype=np.int64) if histories is None else catalogue.find(histories.item_ids)
        self.count = 0
        self._columns: list[FeatureColumn] = []
        self._has_excluded = False
        names = [] if path is None else column_names(path, self._separator, self._quote)
        if path is not None:
            self._id_column = _id_column(path, recipe, names)
            found = (column_of(feature, recipe, self._id_column, names) for feature in schema.features)
            self._columns = [column for column in found if column is not None]
            self._has_excluded = EXCLUDED in names
        held = {column.feature.name for column in self._columns}
        if histories is not None:
            of_events = {f.name for f in schema.features if isinstance(f, History | EventValue)}
            if twice := sorted(held & of_events):
                raise DataError(
                    f"{path}: the column {twice[0]!r} holds histories, and so does the table of --interactions; leave "
                    "out the column or --interactions"
                )
            held |= set(histories.columns(schema, np.zeros(0, dtype=np.int64))) | ({USER_ID} if path is None else set())
        self.missing = tuple(feature.name for feature in schema.features if feature.name not in held)

    def check(self, notes: list[str]) -> None:
        """Reads all rows once, so that a wrong one is refused before the first list is made, and counts the users.

        Args:
            notes: List to which notes on cells are added that were read other than they are written.

        Raises:
            DataError: A cell is wrong, or a user is in several rows; names file, column and row.
        """
        if self._path is None:
            self.count = 0 if self._histories is None else len(self._histories.user_ids)
            return
        hashes: list[np.ndarray] = []
        noted: dict[tuple[str, str], str] = {}
        histories = self._histories
        is_listed = np.zeros(0 if histories is None else len(histories.user_ids) + 1, dtype=bool)
        for table in self._tables():
            ids = self._read(table)[_ID]
            hashes.append(ids.hash().to_numpy())
            noted = {**table.notes, **noted}
            if histories is not None:
                is_listed[histories.rows_of(ids.to_list())] = True
        notes += noted.values()
        if histories is not None and (unlisted := int(np.count_nonzero(~is_listed[:-1]))):
            notes.append(
                f"{unlisted:,} of {len(histories.user_ids):,} users of the interactions are not in {self._path}: they "
                "get no list."
            )
        every = np.concatenate(hashes)
        self.count = len(every)
        if len(np.unique(every)) < len(every):
            self._refuse_duplicates(every)

    def batches(self, size: int) -> Iterator[pl.DataFrame]:
        """Yields the users in order, in batches of `size` users; the last one may be smaller."""
        if self._path is not None:
            yield from _in_batches((self._read(table) for table in self._tables()), size)
        elif self._histories is not None:
            ids = self._histories.user_ids
            for start in range(0, len(ids), size):
                yield pl.DataFrame({_ID: list(ids[start : start + size])})

    def ids(self, batch: pl.DataFrame) -> pl.Series:
        """Returns the ids of the users of a batch, as text."""
        return batch[_ID]

    def queries(self, batch: pl.DataFrame) -> Queries:
        """Returns the queries of the users of a batch."""
        names = [column.feature.name for column in self._columns]
        columns = {name: batch[_FEATURE + name].to_list() for name in names}
        known = excluded = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        lengths = np.zeros(batch.height, dtype=np.int64)
        if self._histories is not None:
            rows = self._histories.rows_of(batch[_ID].to_list())
            columns |= self._histories.columns(self._schema, rows)
            if self._path is None and USER_ID in self._schema.by_name:
                columns[USER_ID] = batch[_ID].to_list()
            owners, items = self._histories.known_items(rows)
            known, lengths = (owners, self._item_rows[items]), np.bincount(owners, minlength=batch.height)
        else:
            histories = [
                batch[_FEATURE + f.name] for f in self._schema.features if isinstance(f, History) and f.name in names
            ]
            for lists in histories:
                lengths = np.maximum(lengths, lists.list.len().fill_null(0).to_numpy())
            pairs = [self._find(lists.cast(pl.List(pl.String))) for lists in histories]
            known = tuple(np.concatenate(part) for part in zip(*pairs, strict=True)) if pairs else known
        if self._has_excluded:
            excluded = self._find(batch[EXCLUDED])
        return Queries(columns, known, excluded, lengths)

    def _find(self, lists: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Returns the position of the list and the item row of each id in lists of item ids: [m] int64 each."""
        counts = lists.list.len().fill_null(0).to_numpy()
        ids = lists.filter(pl.Series(counts > 0)).explode().to_list()
        return np.repeat(np.arange(len(lists)), counts), self._catalogue.find(ids)

    def _tables(self) -> Iterator[Table]:
        columns = [self._id_column, *(c.column for c in self._columns), *([EXCLUDED] if self._has_excluded else ())]
        return Table.blocks(self._path, columns, self._separator, self._quote, _BLOCK)

    def _read(self, table: Table) -> pl.DataFrame:
        series = {_ID: table.ids(self._id_column)}
        for column in self._columns:
            series[_FEATURE + column.feature.name] = column.read(table)
        for column in self._columns:
            if isinstance(column.feature, EventValue):
                history, values = column.feature.history, series[_FEATURE + column.feature.name]
                ids = series.get(_FEATURE + history, pl.Series([[]] * len(table), dtype=pl.List(pl.String)))
                check_lengths(table, column.column, values, history, ids)
        if self._has_excluded:
            series[EXCLUDED] = read_item_ids(table, EXCLUDED)
        return pl.DataFrame({name: values.rename(name) for name, values in series.items()})

    def _refuse_duplicates(self, hashes: np.ndarray) -> None:
        """Raises a `DataError` that names a user with several rows, unless only the hashes of ids are the same."""
        values, counts = np.unique(hashes, return_counts=True)
        suspects = pl.Series(values[counts > 1])
        first: dict[str, str] = {}
        for table in self._tables():
            ids = self._read(table)[_ID]
            for row in ids.hash().is_in(suspects.implode()).arg_true().to_list():
                if ids[row] in first:
                    raise DataError(
                        f"{self._path}, column {self._id_column!r}: {first[ids[row]]} and {table.place(row)}: "
                        f"{ids[row]!r} is in several rows; keep one of them"
                    )
                first[ids[row]] = table.place(row)


def _id_column(path: Path, recipe: Recipe, names: list[str]) -> str:
    """Returns the name of the column of user ids: as in the recipe's users, its interactions, or ``user_id``."""
    candidates = [None if recipe.users is None else recipe.users.id, recipe.interactions.user, USER_ID]
    wanted = list(dict.fromkeys(name for name in candidates if name is not None))
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise DataError(
            f"{path}: no column {' or '.join(map(repr, wanted))}, which would hold the ids of the users; its columns "
            f"are {names}"
        )
    return found


def _in_batches(frames: Iterable[pl.DataFrame], size: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of frames in order, `size` rows at a time; the last frame may be smaller."""
    held: list[pl.DataFrame] = []
    count = 0
    for frame in frames:
        held.append(frame)
        count += frame.height
        if count < size:
            continue
        whole = pl.concat(held, rechunk=True)
        starts = range(0, count - count % size, size)
        yield from (whole[start : start + size] for start in starts)
        held, count = [whole[count - count % size :]], count % size
    if count:
        yield pl.concat(held, rechunk=True)
