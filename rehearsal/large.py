"""A bundle with a large made-up catalogue, to swap something that takes long to read."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex

from bundle.canaries import Canaries
from bundle.items import ItemTable
from bundle.manifest import CANARIES, INDEX, ITEMS, QUERY_TOWER, VECTORS, VOCABULARIES, FileEntry, IndexSpec, Manifest
from bundle.store import BundleStore

_TREES = 2
_BUDGET = 20_000
_TOP = 10


def write_large_bundle(store: BundleStore, base: str, item_count: int, seed: int) -> Manifest:
    """Writes a bundle of the model of `base` over random unit vectors, not promoted, and returns its manifest.

    Args:
        store: that holds `base`.
        base: bundle whose tower and canary queries it takes.
        item_count: rows, for instance 1,000,000.
        seed: of vectors and index.
    """
    source, given = store.path(base), store.manifest(base)
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((item_count, given.dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = ItemTable.of(tuple(f"item-{row}" for row in range(item_count)), {})
    old = Canaries.read(source / CANARIES)
    scores = old.embeddings @ vectors.T  # [n, item_count]
    top = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]  # [n, k]
    version = store.new_version()
    with store.stage(version) as folder:
        for name in (QUERY_TOWER, VOCABULARIES):
            shutil.copyfile(source / name, folder / name)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        items.write(folder / ITEMS)
        top_items = [[items.ids[row] for row in rows] for rows in top]
        Canaries(old.columns, old.embeddings, top_items, np.take_along_axis(scores, top, axis=1)).write(
            folder / CANARIES
        )
        recall = _build(vectors, old.embeddings, scores, folder / INDEX, seed)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            spec = IndexSpec("annoy", "angular", {"trees": _TREES, "seed": seed}, _BUDGET, recall)
            return dataclasses.replace(
                given,
                bundle_version=version,
                parent_version=base,
                item_count=item_count,
                index=spec,
                attributes={},
                files=files,
                metrics={},
            )

        return store.commit(folder, describe)


def _build(vectors: np.ndarray, queries: np.ndarray, scores: np.ndarray, path: Path, seed: int) -> float:
    """Writes the index and returns its recall@100 on `queries`."""
    index = AnnoyIndex(vectors.shape[1], "angular")
    index.set_seed(seed)
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(_TREES, n_jobs=1)
    exact = np.argpartition(-scores, 100, axis=1)[:, :100].tolist()
    found = [len(set(index.get_nns_by_vector(q, 100, _BUDGET)) & set(e)) for q, e in zip(queries, exact, strict=True)]
    index.save(str(path))
    return sum(found) / (100 * len(found))
