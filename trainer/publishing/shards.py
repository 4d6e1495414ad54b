"""Cuts the catalogue of a bundle that is being written into shards, and gives each golden queries of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import GOLDEN_QUERIES
from retrieval.index.sharding import shard_slices, split_catalogue
from trainer.errors import ExportError
from trainer.publishing.golden_query_maker import make_golden_queries


def cut_into_shards(
    folder: Path,
    items: ItemTable,
    vectors: np.ndarray,
    columns: Mapping[str, Sequence[Any]],
    queries: np.ndarray,
    shard_count: int,
) -> None:
    """Replaces the catalogue in the folder of a bundle by shards; does nothing for one shard.

    Args:
        folder: Folder of the bundle, to which `trainer.publishing.catalogue.write_catalogue` has written.
        items: Items of the catalogue.
        vectors: [item_count, dim] float32, unit length.
        columns: Raw feature values of the golden queries by name, each [n].
        queries: [n, dim] float32, unit length: embeddings of the golden queries.
        shard_count: Number of shards.

    Raises:
        ExportError: There are fewer items than shards.
    """
    if shard_count == 1:
        return
    try:
        split_catalogue(folder, items.attribute_types, shard_count)
    except ValueError as error:
        raise ExportError(f"{error}; lower index.shards") from error
    for name, own_vectors, ids in shard_slices(vectors, items.ids, shard_count):
        make_golden_queries(columns, queries, own_vectors, ids).write(folder / name / GOLDEN_QUERIES)
