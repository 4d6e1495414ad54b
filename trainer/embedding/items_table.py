"""The items table as Parquet files, which are read in slices of rows: only these rows and columns are fetched."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import Field

from retrieval.bundle.catalogue.items import COLUMN_TYPES, Column, ItemTable
from retrieval.bundle.errors import StoreError
from retrieval.bundle.files import sha256_of
from trainer.data.csv_file import explain
from trainer.data.dataset import entities_in, entity_columns
from trainer.data.tables import Table
from trainer.embedding.places import Found, Place, open_place
from trainer.errors import DataError
from trainer.recipe.tables import Attribute, Items

_ENDING = ".parquet"


@dataclass(frozen=True)
class ItemFile:
    """A Parquet file of the items table.

    Attributes:
        name: Name in the place of the table.
        size_bytes: Size of the file.
        stamp: See `Found`.
        digest: What identifies its content: ``sha256:…`` of a file, ``tag:…`` of an object.
        rows: Number of rows.
    """

    name: str
    size_bytes: int
    stamp: str
    digest: str
    rows: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of one file.

    Attributes:
        number: Number of the slice among those of all files, from 0.
        file: File that holds the rows.
        start: First row, from 0.
        stop: Row after the last one.
    """

    number: int
    file: ItemFile
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of rows."""
        return self.stop - self.start


def open_table(location: str) -> tuple[Place, list[Found], str]:
    """Returns the place of an items table, its Parquet files in order of their names, and its complete path or URL.

    Args:
        location: Path or URL of a ``.parquet`` file, or of a folder of such files.

    Raises:
        DataError: There is no such file, or it is not Parquet.
        StoreError: The place cannot be used.
    """
    if location.endswith(_ENDING):
        folder, _, name = location.rpartition("/")
        place = open_place(folder or ".")
        found = place.find(name)
        if found is not None and (place.is_bucket or not Path(place.name, name).is_dir()):
            return place, [found], f"{place.name}/{name}"
    place = open_place(location)
    if not place.is_bucket and not Path(place.name).exists():
        raise DataError(f"{location}: no such file or folder; check the path of --items")
    if not place.is_bucket and Path(place.name).is_file():
        raise DataError(
            f"{location}: --items takes Parquet alone, in files named *{_ENDING}, so that slices of rows can be read; "
            "`add-items --items` takes CSV too"
        )
    files = [each for each in place.list() if each.name.endswith(_ENDING)]
    if not files:
        raise DataError(
            f"{location}: no *{_ENDING} file is directly in it; --items names a Parquet file, or the folder or URL "
            "that holds the files of the table, without partitions such as day=1/"
        )
    return place, files, place.name


def inspect(place: Place, found: Found, source: Items) -> ItemFile:
    """Returns a file with its number of rows and the digest of its content.

    Raises:
        DataError: The file is not Parquet, or lacks a column.
        StoreError: The file cannot be read.
    """
    with _explained(found.name):
        lazy = _scan(place, found.name)
        names = lazy.collect_schema().names()
        if absent := [name for name in dict.fromkeys(entity_columns(source)) if name not in names]:
            raise DataError(f"{found.name}: no column {', '.join(map(repr, absent))}; its columns are {names}")
        rows = int(lazy.select(pl.len()).collect().item())
    return ItemFile(found.name, found.size_bytes, found.stamp, digest_of(place, found), rows)


def digest_of(place: Place, found: Found) -> str:
    """Returns what identifies the content of a file. Raises StoreError if it cannot be read."""
    if place.is_bucket:
        return f"tag:{found.stamp}"
    try:
        return f"sha256:{sha256_of(Path(place.name, found.name))}"
    except OSError as error:
        raise StoreError(f"cannot read {place.name}/{found.name}: {error}") from error


def cut(files: list[ItemFile], rows: int) -> Iterator[Slice]:
    """Yields all rows of the files in slices of at most `rows` rows; a slice does not go beyond its file."""
    number = 0
    for file in files:
        for start in range(0, file.rows, rows):
            yield Slice(number, file, start, min(start + rows, file.rows))
            number += 1


def read_rows(
    place: Place, piece: Slice, source: Items, attributes: Mapping[str, Attribute]
) -> tuple[ItemTable, dict[tuple[str, str], str]]:
    """Returns the items of a slice, and the notes on cells that were read other than they are written.

    Cells are read as `add-items` reads a table that has these rows alone.

    Args:
        place: Place of the items table.
        piece: Rows to read.
        source: Items table of the recipe.
        attributes: Attributes to read, by name.

    Raises:
        DataError: A cell cannot be used, two rows have one id, or the file is not the one that was inspected.
        StoreError: The file cannot be read.
    """
    wanted = Items(source.path, source.id, attributes)
    name = piece.file.name
    with _explained(name):
        lazy = _scan(place, name).select(list(dict.fromkeys(entity_columns(wanted))))
        frame = lazy.slice(piece.start, len(piece)).collect()
    found = place.find(name)
    if found is None or (found.size_bytes, found.stamp) != (piece.file.size_bytes, piece.file.stamp):
        raise DataError(f"{name}: was {'removed' if found is None else 'written anew'} while it was read; start again")
    table = Table.of_rows(Path(name), frame, piece.start)
    entities = entities_in(table, wanted)
    columns: dict[str, Column] = {
        key: COLUMN_TYPES[attribute.type].of(entities[key].to_list()) for key, attribute in attributes.items()
    }
    return ItemTable.of(tuple(entities["id"].to_list()), columns), table.notes


def hash_id(item_id: str) -> int:
    """Returns 64 bits of a hash of an id, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")


def _scan(place: Place, name: str) -> pl.LazyFrame:
    location, options = place.scan_options(name)
    # Credentials are those that the store uses: polars would ask other packages for them.
    return pl.scan_parquet(
        location, glob=False, hive_partitioning=False, credential_provider=None, storage_options=options
    )


@contextlib.contextmanager
def _explained(name: str) -> Generator[None]:
    try:
        yield
    except OSError as error:  # polars names the wrong object at the end, if several were read
        raise StoreError(f"cannot read {name}: {re.sub(r' *[(]path: [^)]*[)]$', '', explain(error))[:300]}") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name}: cannot be read as Parquet: {explain(error)[:300]}; save it anew") from error
