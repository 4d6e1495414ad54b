"""Bundles of synthetic items for the ANN service alone, in one piece or in shards: they have no query tower."""

from __future__ import annotations

import numpy as np

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import GOLDEN_QUERIES, INDEX, ITEMS, VECTORS
from retrieval.bundle.manifest import FileEntry, Manifest, format_version_of
from retrieval.index.sharding import describe_shards
from retrieval.store.store import BundleStore
from testbed.synthetic_vectors import Data
from trainer.publishing import index_selection
from trainer.publishing.golden_query_maker import COUNT, make_golden_queries
from trainer.publishing.shards import cut_into_shards
from trainer.recipe.recipe import Index

MODEL = "20200101T000000Z-000000"
"""Model version of every bundle, since the vectors are of one space."""


def write_catalogue_bundle(store: BundleStore, data: Data, settings: Index, seed: int = 1) -> Manifest:
    """Writes a bundle of the items ``item-0``, ``item-1`` and so on, promotes it, and returns its manifest.

    Args:
        store: store that gets the bundle.
        data: item vectors, and the queries on which the recall is measured.
        settings: kind of the index, its parameters, the recall to reach, and the number of shards.
        seed: seed of the index.

    Raises:
        ExportError: the index does not reach the recall with any search budget.
    """
    vectors, queries, shard_count = data.vectors, data.queries, settings.shards
    items = ItemTable.of((f"item-{row}" for row in range(len(vectors))), {})
    golden = queries[:COUNT]
    columns = {"number": list(range(len(golden)))}
    version = store.new_version()
    with store.stage(version) as folder:
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        items.write(folder / ITEMS)
        cut_into_shards(folder, items, vectors, columns, golden, shard_count)
        spec = index_selection.build(vectors, queries, folder / INDEX, settings=settings, seed=seed)
        make_golden_queries(columns, golden, vectors, items.ids).write(folder / GOLDEN_QUERIES)
        shards = describe_shards(folder, vectors, queries, spec, shard_count)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return Manifest(
                bundle_version=version,
                model_version=MODEL,
                parent_version=None,
                dimension=vectors.shape[1],
                item_count=len(vectors),
                index=spec,
                feature_schema={"features": []},
                attributes={},
                files=files,
                metrics={},
                seed=seed,
                git_commit="",
                recipe={},
                shards=shards,
                format_version=format_version_of(shards),
            )

        manifest = store.commit(folder, describe)
    store.promote(version)
    return manifest
