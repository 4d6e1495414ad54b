"""Bundles with a trained query tower and a synthetic catalogue of any size."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.items import Column, ItemTable
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, INDEX, ITEMS, QUERY_TOWER, VECTORS, VOCABULARIES
from retrieval.bundle.manifest import FileEntry, IndexSpec, Manifest
from retrieval.index.lexical import files as lexical_files
from retrieval.store.folder_store import FolderStore
from trainer.publishing import index_selection
from trainer.publishing.golden_query_maker import make_golden_queries

Build = Callable[[Path, np.ndarray], IndexSpec]
"""Function that writes an index file and returns its specification.

Its arguments are the path, and the golden queries on which recall is measured, [n, dim] float32, unit length.
"""

_TREES = 2
_BUDGET = 20_000


def write_bundle_of(
    store: FolderStore,
    base: str,
    vectors: np.ndarray,
    build: Build,
    attributes: Mapping[str, Column] | None = None,
    lexical: Sequence[str] = (),
) -> Manifest:
    """Writes a bundle with the query tower of another bundle and other item vectors, and returns its manifest.

    The bundle is not promoted.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower and golden queries are copied.
        vectors: [item_count, dim] float32, unit length, vectors of the items ``item-0``, ``item-1`` and so on.
        build: function that writes the index file and returns its specification.
        attributes: columns of [item_count] values by attribute name. Default: no attributes.
        lexical: names of the attributes that the lexical index reads. Default: no lexical index.
    """
    source, given = store.path(base), store.manifest(base)
    items = ItemTable.of((f"item-{row}" for row in range(len(vectors))), attributes or {})
    old = GoldenQueries.read(source / GOLDEN_QUERIES)
    version = store.new_version()
    with store.stage(version) as folder:
        for name in (QUERY_TOWER, VOCABULARIES):
            shutil.copyfile(source / name, folder / name)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        items.write(folder / ITEMS)
        make_golden_queries(old.columns, old.embeddings, vectors, items.ids).write(folder / GOLDEN_QUERIES)
        spec = build(folder / INDEX, old.embeddings)
        if lexical:
            lexical_files.write(folder, lexical, items.texts(lexical), items.ids)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return dataclasses.replace(
                given,
                bundle_version=version,
                parent_version=base,
                item_count=len(vectors),
                index=spec,
                attributes=items.attribute_types,
                files=files,
                metrics={},
            )

        return store.commit(folder, describe)


def write_large_bundle(store: FolderStore, base: str, item_count: int, seed: int) -> Manifest:
    """Writes a bundle of random unit vectors, large enough to take long to load, and returns its manifest.

    The bundle is not promoted.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower and golden queries are copied.
        item_count: number of items, for instance 1,000,000.
        seed: seed of the vectors and of the index.
    """
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((item_count, store.manifest(base).dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quick = IndexSpec("annoy", "angular", {"trees": _TREES, "seed": seed}, _BUDGET, 0.0)
    return write_bundle_of(
        store,
        base,
        vectors,
        lambda path, queries: index_selection.rebuild(vectors, queries, path, old=quick, min_recall=0.0),
    )


def copy_live(source: FolderStore, store: FolderStore) -> str:
    """Copies the live bundle of a store into another store, promotes it there, and returns its version.

    Args:
        source: store whose live bundle is copied; it is not changed.
        store: empty store that gets the copy.

    Raises:
        BundleNotFound: no bundle is live in `source`.
    """
    version = source.live_version()
    shutil.copytree(source.path(version), store.path(version))
    store.promote(version)
    return version
