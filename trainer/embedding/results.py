"""The folder of vectors that `embed-items` writes.

```
plan.json                              what is embedded; written first, once all rows were checked
parts/part-000000-SHA256.parquet       ids and vectors of one slice; its name holds its checksum
embeddings.json                        the list of all parts; written last: the folder is complete
```

A part appears under its name at once, with all of its bytes. Written again, it has the same bytes and so the same name.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from trainer.embedding.places import Found, Place
from trainer.embedding.stored import parse
from trainer.errors import DataError

PLAN, PARTS, EMBEDDINGS = "plan.json", "parts", "embeddings.json"
ID, VECTOR = "id", "vector"
"""Columns of a part: the item id as text, and its vector as a list of float32 of fixed length."""

_NAME = re.compile(rf"{PARTS}/part-([0-9]{{6,}})-([0-9a-f]{{64}})\.parquet")


@dataclass(frozen=True)
class Part:
    """A part that is there.

    Attributes:
        name: Path in the folder of vectors.
        number: Number of its slice.
        sha256: SHA-256 of the file in hex.
        size_bytes: Size of the file.
    """

    name: str
    number: int
    sha256: str
    size_bytes: int


def find_parts(place: Place) -> list[Part]:
    """Returns all parts in order of their slices; those of one slice in order of their checksums."""
    return [part for found in place.list(PARTS) if (part := _part_of(found)) is not None]


def write_part(place: Place, number: int, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Writes the part of a slice: the same bytes for the same ids and vectors.

    Args:
        place: Folder of vectors.
        number: Number of the slice.
        ids: [n] item ids.
        vectors: [n, dimension] float32, unit length.
    """
    frame = pl.DataFrame(
        {
            ID: pl.Series(list(ids), dtype=pl.String),
            VECTOR: pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
        }
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="uncompressed", statistics=False, row_group_size=max(1, len(vectors)))
    content = buffer.getvalue()
    place.write(f"{PARTS}/part-{number:06}-{hashlib.sha256(content).hexdigest()}.parquet", content)


def is_whole(place: Place, part: Part) -> bool:
    """Returns whether the bytes of a part are those that were written."""
    return hashlib.sha256(place.read(part.name)).hexdigest() == part.sha256


def read_part(place: Place, part: Part) -> tuple[list[str], np.ndarray]:
    """Returns the ids of a part, [n], and its vectors: [n, dimension] float32, unit length.

    Raises:
        DataError: The part is damaged.
        StoreError: It cannot be read.
    """
    content = place.read(part.name)
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise DataError(f"{place.name}/{part.name}: damaged; run the same embed-items again, which replaces it")
    frame = pl.read_parquet(io.BytesIO(content))
    return frame[ID].to_list(), frame[VECTOR].to_numpy()


def write_list(place: Place, parts: Sequence[Part]) -> None:
    """Writes the list of all parts, which makes the folder complete."""
    raw = {"parts": [asdict(part) for part in parts]}
    place.write(EMBEDDINGS, (json.dumps(raw, indent=2) + "\n").encode())


def read_list(place: Place, slice_count: int) -> list[Part]:
    """Returns all parts of a complete folder, in order of their slices.

    Args:
        place: Folder of vectors.
        slice_count: Number of slices of its plan.

    Raises:
        DataError: The folder is not complete, or the list is damaged.
    """
    if place.find(EMBEDDINGS) is None:
        raise DataError(f"{place.name} holds no complete vectors ({EMBEDDINGS} is missing): run embed-items to its end")
    name, advice = f"{place.name}/{EMBEDDINGS}", "run the same embed-items again"
    parts = parse(_LIST, place.read(EMBEDDINGS), name, advice).parts
    for number, part in enumerate(parts):
        if part.number != number or part != _part_of(Found(part.name, part.size_bytes, "")):
            raise DataError(f"{name}: damaged ({part.name!r} is no name of part {number}); {advice}")
    if len(parts) != slice_count:
        raise DataError(f"{name}: damaged (it lists {len(parts):,} parts of {slice_count:,}); {advice}")
    return parts


@dataclass(frozen=True)
class _List:
    parts: list[Part]


_LIST = TypeAdapter(_List)


def _part_of(found: Found) -> Part | None:
    match = _NAME.fullmatch(found.name)
    return None if match is None else Part(found.name, int(match[1]), match[2], found.size_bytes)
