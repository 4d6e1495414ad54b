"""Reads the items and vectors of a folder that `embed-items` has completed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.manifest import Manifest
from trainer.embedding import items_table, results
from trainer.embedding.items_table import Slice
from trainer.embedding.places import open_place
from trainer.embedding.plan import Plan, model_differences, with_files_of_today
from trainer.embedding.tasks import items_source
from trainer.errors import DataError


def read_embedded(location: str, manifest: Manifest, notes: list[str]) -> Iterator[tuple[ItemTable, np.ndarray]]:
    """Yields the items of each slice with all attributes, and their vectors: [n, dimension] float32, unit length.

    Args:
        location: Path or URL of the folder of vectors.
        manifest: Manifest of the bundle that gets the items.
        notes: List to which notes on cells are added that were read other than they are written.

    Raises:
        DataError: The folder is not complete, is of another model, or the items table has changed.
        StoreError: A file cannot be read.
    """
    place = open_place(location)
    if place.find(results.PLAN) is None:
        raise DataError(f"{location} holds no {results.PLAN}; --vectors names a folder that embed-items wrote")
    plan = Plan.from_json(place.read(results.PLAN), f"{location}/{results.PLAN}")
    pieces = list(plan.slices())
    parts = results.read_list(place, len(pieces))
    if differing := model_differences(plan, manifest):
        raise DataError(f"the vectors in {location} cannot be used: {differing[0]}; embed the items with that one")
    source = items_source(manifest)
    table, found, _ = items_table.open_table(plan.items)
    plan, changed = with_files_of_today(
        plan, found, lambda files: {number: items_table.digest_of(table, each) for number, each in enumerate(files)}
    )
    if changed:
        raise DataError(f"{plan.items} has changed since it was embedded: {changed[0]}; embed it to a new folder")
    notes += plan.notes
    for piece, part in zip(plan.slices(), parts, strict=True):
        items, _ = items_table.read_rows(table, piece, source, source.attributes)
        ids, vectors = results.read_part(place, part)
        if list(items.ids) != ids:
            raise DataError(f"{location}/{part.name}: other ids than {_place(piece)} of {plan.items}; embed them again")
        yield items, vectors


def _place(piece: Slice) -> str:
    return f"rows {piece.start + 1:,} to {piece.stop:,} of {piece.file.name}"
