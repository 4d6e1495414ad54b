"""The items of a bundle: external ids and attributes, as columns of ``items.npz``, which holds no pickle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from retrieval.bundle.catalogue.string_table import Strings

MISSING = -1
"""Code of a missing string."""


@dataclass(frozen=True)
class StringColumn:
    """A dictionary-coded string for each item.

    Attributes:
        codes: [item_count] int32, positions in `values`; -1 if missing.
        values: Distinct strings.
    """

    type: ClassVar = "string"
    codes: np.ndarray
    values: Strings

    @staticmethod
    def of(column: Sequence[str | None]) -> StringColumn:
        """Returns the column of these values, one for each item; None is missing."""
        codes: dict[str, int] = {}
        coded = [MISSING if value is None else codes.setdefault(value, len(codes)) for value in column]
        return StringColumn(np.array(coded, dtype=np.int32), Strings.of(codes))

    def at(self, row: int) -> str | None:
        """Returns the value of one item; None if missing."""
        code = self.codes[row]
        return None if code == MISSING else self.values[code]


@dataclass(frozen=True)
class StringListColumn:
    """A list of dictionary-coded strings for each item.

    Attributes:
        codes: [total] int32, positions in `values`; the lists of all items, concatenated.
        offsets: [item_count + 1] int64; the list of item i is ``codes[offsets[i]:offsets[i + 1]]``.
        values: Distinct strings.
    """

    type: ClassVar = "string_list"
    codes: np.ndarray
    offsets: np.ndarray
    values: Strings

    @staticmethod
    def of(column: Sequence[Sequence[str] | None]) -> StringListColumn:
        """Returns the column of these lists, one for each item; None is an empty list."""
        codes: dict[str, int] = {}
        flat = [codes.setdefault(value, len(codes)) for values in column for value in values or ()]
        lengths = [len(values or ()) for values in column]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        return StringListColumn(np.array(flat, dtype=np.int32), offsets, Strings.of(codes))

    def at(self, row: int) -> tuple[str, ...] | None:
        """Returns the values of one item; None if there are none."""
        codes = self.codes[self.offsets[row] : self.offsets[row + 1]]
        return tuple(self.values[code] for code in codes) or None

    def lists(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lists of some items.

        Args:
            rows: [n] int64, rows of the items.

        Returns:
            Codes of all lists, concatenated: [total] int32; number of codes of each list: [n] int64.
        """
        firsts = self.offsets[rows]  # [n]
        counts = self.offsets[rows + 1] - firsts  # [n]
        ends = np.cumsum(counts)  # [n]
        indices = np.arange(int(counts.sum())) + np.repeat(firsts - (ends - counts), counts)  # [total]
        return self.codes[indices], counts


@dataclass(frozen=True)
class IntColumn:
    """A whole number for each item.

    Attributes:
        numbers: [item_count] int64, 0 if missing.
        present: [item_count] bool, whether the item has a number.
    """

    type: ClassVar = "int"
    numbers: np.ndarray
    present: np.ndarray

    @staticmethod
    def of(column: Sequence[int | None]) -> IntColumn:
        """Returns the column of these values, one for each item; None is missing."""
        present = np.array([value is not None for value in column], dtype=bool)
        return IntColumn(np.array([value or 0 for value in column], dtype=np.int64), present)

    def at(self, row: int) -> int | None:
        """Returns the value of one item; None if missing."""
        return int(self.numbers[row]) if self.present[row] else None


@dataclass(frozen=True)
class FloatColumn:
    """A real number for each item.

    Attributes:
        numbers: [item_count] float64, NaN if missing.
    """

    type: ClassVar = "float"
    numbers: np.ndarray

    @staticmethod
    def of(column: Sequence[float | None]) -> FloatColumn:
        """Returns the column of these values, one for each item; None is missing."""
        return FloatColumn(np.array([np.nan if value is None else value for value in column], dtype=np.float64))

    @cached_property
    def present(self) -> np.ndarray:
        """Whether each item has a number: [item_count] bool."""
        return ~np.isnan(self.numbers)

    def at(self, row: int) -> float | None:
        """Returns the value of one item; None if missing."""
        return float(self.numbers[row]) if self.present[row] else None


Column = StringColumn | StringListColumn | IntColumn | FloatColumn
COLUMN_TYPES: Mapping[str, type[Column]] = {c.type: c for c in (StringColumn, StringListColumn, IntColumn, FloatColumn)}


@dataclass(frozen=True)
class ItemTable:
    """Ids and attributes of the items. Row i is row i of ``vectors.npy`` and of the index.

    Attributes:
        ids: [item_count] distinct external ids.
        attributes: Columns of [item_count] values, by attribute name.
    """

    ids: Strings
    attributes: Mapping[str, Column]

    @staticmethod
    def of(ids: Iterable[str], attributes: Mapping[str, Column]) -> ItemTable:
        """Returns the table of these ids and columns."""
        return ItemTable(Strings.of(ids), attributes)

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows by external id."""
        return self.ids.positions

    @property
    def attribute_types(self) -> dict[str, str]:
        """Types by attribute name, in the form of the manifest."""
        return {name: column.type for name, column in self.attributes.items()}

    def texts(self, attributes: Sequence[str]) -> list[str]:
        """Returns the text of each item, [item_count]: the values of these string attributes, joined by blanks."""
        columns = [self.attributes[name] for name in attributes]
        return [" ".join(str(value) for c in columns if (value := c.at(row))) for row in range(len(self.ids))]

    def write(self, path: Path) -> None:
        """Writes the table to a new file."""
        arrays: dict[str, np.ndarray] = {}
        self.ids.to_arrays("ids", arrays)
        for name, column in self.attributes.items():
            prefix = f"attribute/{column.type}/{name}"
            if isinstance(column, StringColumn | StringListColumn):
                arrays[f"{prefix}/codes"] = column.codes
                column.values.to_arrays(f"{prefix}/values", arrays)
            if isinstance(column, StringListColumn):
                arrays[f"{prefix}/offsets"] = column.offsets
            if isinstance(column, IntColumn | FloatColumn):
                arrays[f"{prefix}/numbers"] = column.numbers
            if isinstance(column, IntColumn):
                arrays[f"{prefix}/present"] = column.present
        with path.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @staticmethod
    def read(path: Path, attribute_types: Mapping[str, str]) -> ItemTable:
        """Returns the table that `write` wrote.

        Args:
            path: ``items.npz``, already verified.
            attribute_types: types by name of the attributes to read, as in the manifest.

        Raises:
            ValueError: an array is missing, lengths differ, or an id is duplicated.
        """
        with np.load(path, allow_pickle=False) as arrays:
            try:
                ids = Strings.from_arrays("ids", arrays)
                attributes = {name: _read_column(arrays, name, type_) for name, type_ in attribute_types.items()}
            except KeyError as error:
                raise ValueError(f"{path.name} lacks {error}") from error
        table = ItemTable(ids, attributes)
        if (duplicate := ids.first_duplicate) is not None:
            raise ValueError(f"{path.name} holds item id {duplicate!r} twice")
        for name, column in attributes.items():
            if isinstance(column, StringListColumn):
                length = len(column.offsets) - 1
            else:
                length = len(column.codes if isinstance(column, StringColumn) else column.numbers)
            if length != len(ids):
                raise ValueError(f"{path.name}: attribute {name} has {length} rows, expected {len(ids)}")
        return table


def _read_column(arrays: Any, name: str, type_: str) -> Column:
    prefix = f"attribute/{type_}/{name}"
    match type_:
        case "string":
            return StringColumn(arrays[f"{prefix}/codes"], Strings.from_arrays(f"{prefix}/values", arrays))
        case "string_list":
            values = Strings.from_arrays(f"{prefix}/values", arrays)
            return StringListColumn(arrays[f"{prefix}/codes"], arrays[f"{prefix}/offsets"], values)
        case "int":
            return IntColumn(arrays[f"{prefix}/numbers"], arrays[f"{prefix}/present"])
        case "float":
            return FloatColumn(arrays[f"{prefix}/numbers"])
        case _:
            raise ValueError(f"attribute {name} is of type {type_!r}, expected one of {sorted(COLUMN_TYPES)}")
