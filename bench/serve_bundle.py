"""A bundle of any size to search: made vectors in clusters, with an index whose recall is known."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex

from bundle.canaries import Canaries
from bundle.items import ItemTable
from bundle.manifest import CANARIES, INDEX, ITEMS, QUERY_TOWER, VECTORS, VOCABULARIES, FileEntry, IndexSpec, Manifest
from bundle.store import BundleStore

K = 100
_QUERIES = 200
_SPREAD = 0.8
"""How far items spread around their centre, relative to how far centres spread: clusters overlap."""


@dataclass(frozen=True, eq=False)
class Made:
    """A bundle that is live.

    Attributes:
        manifest: of it.
        queries: [n, dimension] float32, unit length, drawn as the items are.
        recall: recall@100 of its index with its search budget, on these queries.
        index: the file.
    """

    manifest: Manifest
    queries: np.ndarray
    recall: float
    index: Path


def make(store: BundleStore, base: str, item_count: int, trees: int, recall: float, seed: int = 1) -> Made:
    """Writes and promotes a bundle of the model of `base`.

    Args:
        store: that holds `base`.
        base: bundle whose tower it takes.
        item_count: rows, at least 1,000.
        trees: of the index.
        recall: recall@100 to reach; the search budget is the least, of steps by a quarter, that does.
        seed: of vectors and index.
    """
    source, given = store.path(base), store.manifest(base)
    generator = np.random.default_rng(seed)
    drawn = _draw(generator, item_count + _QUERIES, given.dimension)
    vectors, queries = drawn[:item_count], drawn[item_count:]
    version = store.new_version()
    with store.stage(version) as folder:
        for name in (QUERY_TOWER, VOCABULARIES):
            shutil.copyfile(source / name, folder / name)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        items = ItemTable.of((f"item-{row}" for row in range(item_count)), {})
        items.write(folder / ITEMS)
        index = AnnoyIndex(given.dimension, "angular")
        index.set_seed(seed)
        for row, vector in enumerate(vectors):
            index.add_item(row, vector)
        index.build(trees, n_jobs=1)
        index.save(str(folder / INDEX))
        budget, found = _tune(index, vectors, queries, recall)
        old = Canaries.read(source / CANARIES)
        scores = old.embeddings @ vectors.T  # [n, item_count]
        top = np.argsort(-scores, axis=1, kind="stable")[:, :10]  # [n, 10]
        names = [[items.ids[row] for row in rows] for rows in top]
        Canaries(old.columns, old.embeddings, names, np.take_along_axis(scores, top, axis=1)).write(folder / CANARIES)
        of_canaries = _recall(index, vectors, old.embeddings, budget)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return dataclasses.replace(
                given,
                bundle_version=version,
                parent_version=base,
                item_count=item_count,
                index=IndexSpec("annoy", "angular", {"trees": trees, "seed": seed}, budget, of_canaries),
                attributes={},
                files=files,
                metrics={},
            )

        manifest = store.commit(folder, describe)
    store.promote(version)
    return Made(manifest, queries, found, store.path(version) / INDEX)


def _draw(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Returns unit vectors around sqrt(count) centres; the spread falls as 1 / sqrt(i) over the dimensions i."""
    centres = generator.standard_normal((round(count**0.5), dimension), dtype=np.float32)
    own = centres[generator.integers(len(centres), size=count)]
    scale = (1.0 / np.sqrt(np.arange(1, dimension + 1))).astype(np.float32)
    drawn = (own + _SPREAD * generator.standard_normal((count, dimension), dtype=np.float32)) * scale
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)  # [count, dimension]


def _tune(index: AnnoyIndex, vectors: np.ndarray, queries: np.ndarray, recall: float) -> tuple[int, float]:
    budget = float(K)
    while (found := _recall(index, vectors, queries, int(budget))) < recall and budget < len(vectors):
        budget *= 1.25
    return int(budget), found


def _recall(index: AnnoyIndex, vectors: np.ndarray, queries: np.ndarray, budget: int) -> float:
    exact = np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K].tolist()  # [n, 100]
    found = [len(set(index.get_nns_by_vector(q, K, budget)) & set(e)) for q, e in zip(queries, exact, strict=True)]
    return sum(found) / (K * len(found))
