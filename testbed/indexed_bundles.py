"""Bundles of any size over synthetic vectors, with an index whose recall is known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.bundle.layout import INDEX
from retrieval.bundle.manifest import IndexSpec, Manifest
from retrieval.index.recall import NEIGHBOURS, measure_recall
from retrieval.store.store import BundleStore
from testbed.synthetic_bundles import write_bundle_of
from testbed.synthetic_vectors import Data, make_data
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

K = NEIGHBOURS


@dataclass(frozen=True, eq=False)
class Made:
    """A live bundle and queries for it.

    Attributes:
        manifest: manifest of the bundle.
        queries: [n, dim] float32, unit length, drawn from the distribution of the items.
        recall: recall@100 of the index with its search budget, on these queries.
        index: path of the index file.
    """

    manifest: Manifest
    queries: np.ndarray
    recall: float
    index: Path


def make(store: BundleStore, base: str, item_count: int, trees: int, recall: float, seed: int = 1) -> Made:
    """Writes and promotes a bundle with synthetic items, an Annoy index and the query tower of `base`; see `make_of`.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower is copied.
        item_count: number of items, at least 1,000.
        trees: number of trees of the index.
        recall: recall@100 to reach.
        seed: random seed of vectors and index.

    Raises:
        ExportError: no search budget reaches that recall with so many trees.
    """
    data = make_data(item_count, seed=seed, dimension=store.manifest(base).dimension)
    return make_of(store, base, data, Index(trees=(trees,), min_recall_at_100=recall), seed)


def make_of(store: BundleStore, base: str, data: Data, settings: Index, seed: int = 1) -> Made:
    """Writes and promotes a bundle with the items in `data` and the query tower of `base`.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower is copied.
        data: item vectors, and the queries that choose the search budget: the smallest one that reaches the recall,
            tried in steps of a quarter.
        settings: kind of the index, and the recall to reach.
        seed: random seed of the index.

    Raises:
        ExportError: no search budget reaches that recall.
    """
    reached: list[float] = []

    def build(path: Path, golden_queries: np.ndarray) -> IndexSpec:
        spec = index_selection.build(data.vectors, data.queries, path, settings=settings, seed=seed)
        reached.append(spec.recall_at_100)
        # A service checks the recall on the golden queries, which have another distribution.
        golden_recall = measure_recall(path, data.vectors, golden_queries, spec)
        return dataclasses.replace(spec, recall_at_100=golden_recall)

    manifest = write_bundle_of(store, base, data.vectors, build)
    store.promote(manifest.bundle_version)
    return Made(manifest, data.queries, reached[0], store.path(manifest.bundle_version) / INDEX)
