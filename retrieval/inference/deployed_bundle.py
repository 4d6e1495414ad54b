"""A deployed bundle, opened in this process without services: its query tower and its catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.bundle.catalogue.parts import paths_of, read_items, read_vectors
from retrieval.bundle.features.schema import Columns, read_schema, text_encoder_specs
from retrieval.bundle.layout import ITEMS, QUERY_TOWER, VECTORS, VOCABULARIES
from retrieval.bundle.manifest import Manifest
from retrieval.inference.query_tower import QueryTower
from retrieval.inference.text_encoder import open_text_encoders
from retrieval.store.store import BundleStore

_BATCH = 1024
"""Number of queries of one call of the query tower."""


@dataclass(frozen=True, eq=False)
class DeployedBundle:
    """A bundle that computes the same embeddings as the services.

    Attributes:
        version: Bundle version.
        query_tower: Query tower.
        vectors: [item_count, dim] float32, unit length.
        item_ids: [item_count] external ids.
    """

    version: str
    query_tower: QueryTower
    vectors: np.ndarray
    item_ids: Sequence[str]

    @staticmethod
    def open(store: BundleStore, version: str) -> DeployedBundle:
        """Returns a bundle of a store, after verifying the files that it reads.

        Raises:
            BundleRefused: a file is missing or damaged.
            BundleNotFound: the store has no such bundle.
            OSError, ValueError, KeyError, RuntimeError: a file cannot be read, although it is as published.
        """
        manifest = store.manifest(version)
        store.verify(version, paths_of(manifest, VECTORS, ITEMS))
        tower, folder = open_query_tower(store, manifest), store.path(version)
        return DeployedBundle(version, tower, read_vectors(folder, manifest), read_items(folder, manifest, {}).ids)

    def embed(self, columns: Columns, row_count: int) -> np.ndarray:
        """Returns the embeddings of queries: [row_count, dim] float32, unit length.

        Args:
            columns: raw values by feature name, as `retrieval.bundle.features.schema.FeatureSchema.encode` takes them.
            row_count: number of queries, at least 1.
        """
        batches = [slice(start, min(start + _BATCH, row_count)) for start in range(0, row_count, _BATCH)]
        return np.concatenate(
            [
                self.query_tower.embed(
                    {name: column[batch] for name, column in columns.items()}, batch.stop - batch.start
                )
                for batch in batches
            ]
        )

    def rows(self, rows_by_id: Mapping[str, int]) -> np.ndarray:
        """Returns the row of each item of the bundle in another catalogue: [item_count] int64, -1 if it is missing.

        Args:
            rows_by_id: rows of the other catalogue by external id.
        """
        return np.array([rows_by_id.get(item_id, -1) for item_id in self.item_ids], dtype=np.int64)


def open_query_tower(store: BundleStore, manifest: Manifest, thread_count: int = 1) -> QueryTower:
    """Returns the query tower of a bundle, after verifying its files.

    Args:
        store: store of the bundle.
        manifest: manifest of the bundle.
        thread_count: number of threads that will call the tower at once.

    Raises:
        BundleRefused: a file is missing or damaged.
        OSError, ValueError, KeyError, RuntimeError: a file cannot be read, although it is as published.
    """
    specs = text_encoder_specs(manifest.feature_schema)
    texts = [path for spec in specs for path in (spec.tokenizer_path, spec.encoder_path)]
    store.verify(manifest.bundle_version, [QUERY_TOWER, VOCABULARIES, *texts])
    folder = store.path(manifest.bundle_version)
    schema = read_schema(folder, manifest.feature_schema)
    encoders = open_text_encoders(folder, schema, thread_count)
    return QueryTower(folder / QUERY_TOWER, schema, encoders, manifest.dimension, thread_count)
