"""A bundle that answers queries as both services do, without them: query tower, index, and the items to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval.bundle.catalogue.parts import parts_of, paths_of, read_items
from retrieval.bundle.catalogue.string_table import Strings
from retrieval.bundle.features.event_kinds import REQUEST_TIME
from retrieval.bundle.features.schema import Columns
from retrieval.bundle.layout import INDEX, ITEMS, VECTORS
from retrieval.bundle.manifest import Manifest
from retrieval.index.errors import FaissMissing
from retrieval.index.hits import Hits
from retrieval.index.leaving_out import search_without
from retrieval.index.recall import NEIGHBOURS
from retrieval.index.registry import Index, open_index
from retrieval.index.scan import best
from retrieval.inference.deployed_bundle import open_query_tower
from retrieval.inference.query_tower import QueryTower
from retrieval.store.store import BundleStore
from trainer.errors import RunError
from trainer.quiet_tensorflow import quiet_stderr

_BATCH = 1024
"""Number of queries of one call of the query tower."""


@dataclass(frozen=True, eq=False)
class _Part:
    """The whole catalogue, or one shard.

    Attributes:
        first_row: Row of its first item in the catalogue.
        vectors: [item_count, dimension] float32, unit length, mapped.
        index: Index over `vectors`.
    """

    first_row: int
    vectors: np.ndarray
    index: Index


@dataclass(frozen=True, eq=False)
class Recommender:
    """A bundle in memory. Safe for several threads.

    Attributes:
        manifest: Manifest of the bundle.
        tower: Query tower.
        item_ids: Ids of the items.
        item_id_series: The same, to take the ids of many rows at once.
        parts: The parts of the catalogue.
    """

    manifest: Manifest
    tower: QueryTower
    item_ids: Strings
    item_id_series: pl.Series
    parts: tuple[_Part, ...]

    @staticmethod
    def open(store: BundleStore, version: str, thread_count: int) -> Recommender:
        """Returns a bundle of a store, after verifying the files that it reads.

        Args:
            store: Store of the bundle.
            version: Bundle version.
            thread_count: Number of threads that will call `embed` at once.

        Raises:
            BundleError: The store has no such bundle, or a file is missing or damaged.
            RunError: A file cannot be opened, although it is as published.
        """
        manifest = store.manifest(version)
        store.verify(version, paths_of(manifest, VECTORS, ITEMS, INDEX))
        folder, spec = store.path(version), manifest.index
        parts: list[_Part] = []
        first_row = 0
        try:
            with quiet_stderr():  # LiteRT prints notes at the first call
                tower = open_query_tower(store, manifest, thread_count)
                tower.embed({}, 1)
            item_ids = read_items(folder, manifest, {}).ids
            for part in parts_of(manifest):
                path = folder / part.path(VECTORS)
                vectors = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
                parts.append(
                    _Part(first_row, vectors, open_index(spec.kind, spec.metric, path.with_name(INDEX), vectors))
                )
                first_row += len(vectors)
        except (OSError, ValueError, KeyError, RuntimeError, FaissMissing) as error:
            raise RunError(f"bundle {version} cannot be opened: {error}") from error
        return Recommender(manifest, tower, item_ids, pl.Series("item_id", list(item_ids), pl.String), tuple(parts))

    def embed(self, columns: Columns, row_count: int, at_s: float) -> tuple[np.ndarray, int]:
        """Returns the embeddings of queries, [row_count, dimension] float32, and how many values the tower knows not.

        Args:
            columns: Raw values by feature name, [row_count] each.
            row_count: Number of queries, at least 1.
            at_s: Time of the requests that state none, in seconds since 1970.
        """
        if self.tower.reads_request_time:
            times = columns.get(REQUEST_TIME, [None] * row_count)
            columns = {**columns, REQUEST_TIME: [at_s if time is None else time for time in times]}
        embeddings: list[np.ndarray] = []
        unknown_count = 0
        for start in range(0, row_count, _BATCH):
            count = min(_BATCH, row_count - start)
            part = {name: values[start : start + count] for name, values in columns.items()}
            embedded, unknown = self.tower.embed_and_count(part, count)
            embeddings.append(embedded)
            unknown_count += 0 if unknown is None else int(unknown.sum())
        # The ANN service scales what it is sent, in float64.
        raw = np.concatenate(embeddings).astype(np.float64)
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32), unknown_count

    def search(self, queries: np.ndarray, k: int, excluded: Sequence[np.ndarray]) -> list[Hits]:
        """Returns the `k` nearest items of each query but those to leave out, as the ANN service finds them.

        Args:
            queries: [n, dimension] float32, unit length.
            k: Number of items of each query, at least 1. There are fewer hits if fewer items are left.
            excluded: For each query the rows to leave out, [m] int64, distinct, ascending.
        """
        found = [self._search_part(part, queries, k, excluded) for part in self.parts]
        if len(found) == 1:
            return found[0]
        merged: list[Hits] = []
        for hits in zip(*found, strict=True):
            rows = np.concatenate([each.rows + part.first_row for each, part in zip(hits, self.parts, strict=True)])
            merged.append(best(rows, np.concatenate([each.scores for each in hits]), k))
        return merged

    def _search_part(self, part: _Part, queries: np.ndarray, k: int, excluded: Sequence[np.ndarray]) -> list[Hits]:
        budget = part.index.raise_budget(self.manifest.index.search_budget, NEIGHBOURS, max(k, NEIGHBOURS))
        if len(self.parts) > 1:
            first, end = part.first_row, part.first_row + len(part.vectors)
            excluded = [rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)] - first for rows in excluded]
        return search_without(part.index, part.vectors, queries, k, budget, excluded)
