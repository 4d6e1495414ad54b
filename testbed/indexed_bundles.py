"""Bundles with synthetic item vectors and an index of known recall, for measurements of the ANN service."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.items import Column
from retrieval.bundle.layout import INDEX
from retrieval.bundle.manifest import IndexSpec, Manifest
from retrieval.index.recall import NEIGHBOURS, measure_recall
from retrieval.store.folder_store import FolderStore
from testbed.synthetic_bundles import write_bundle_of
from testbed.synthetic_vectors import Data, make_data
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

K = NEIGHBOURS


@dataclass(frozen=True, eq=False)
class Made:
    """A live bundle with synthetic items.

    Attributes:
        manifest: Manifest of the bundle.
        queries: [n, dimension] float32, unit length, queries from the distribution of the item vectors.
        recall: Recall@100 of the index on `queries` at the search budget of the manifest, 0 to 1.
        index: Path of the index file.
    """

    manifest: Manifest
    queries: np.ndarray
    recall: float
    index: Path


def make(store: FolderStore, base: str, item_count: int, trees: int, recall: float, seed: int = 1) -> Made:
    """Writes and promotes a bundle with clustered synthetic items and an Annoy index, and returns it.

    The search budget is the smallest that reaches the recall; candidate budgets grow by a quarter.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower is copied.
        item_count: number of items, at least 1,000.
        trees: number of trees of the index.
        recall: recall@100 that the index has to reach, 0 to 1.
        seed: seed of the vectors and of the index.

    Raises:
        ExportError: the index does not reach the recall with any search budget.
    """
    data = make_data(item_count, seed=seed, dimension=store.manifest(base).dimension)
    return make_of(store, base, data, Index(trees=(trees,), min_recall_at_100=recall), seed)


def make_of(
    store: FolderStore,
    base: str,
    data: Data,
    settings: Index,
    seed: int = 1,
    attributes: Mapping[str, Column] | None = None,
) -> Made:
    """Writes and promotes a bundle with given item vectors, and returns it.

    The search budget is the smallest that reaches the recall; candidate budgets grow by a quarter.

    Args:
        store: store that holds `base`, and gets the new bundle.
        base: version of the bundle whose query tower is copied.
        data: item vectors, and the queries on which the recall is measured.
        settings: kind of the index, its parameters, and the recall to reach.
        seed: seed of the index.
        attributes: columns of [item_count] values by attribute name. Default: no attributes.

    Raises:
        ExportError: the index does not reach the recall with any search budget.
    """
    reached: list[float] = []

    def build(path: Path, golden_queries: np.ndarray) -> IndexSpec:
        spec = index_selection.build(data.vectors, data.queries, path, settings=settings, seed=seed)
        reached.append(spec.recall_at_100)
        # A service checks the recall on the golden queries, which are not from the distribution of the items.
        golden_recall = measure_recall(path, data.vectors, golden_queries, spec)
        return dataclasses.replace(spec, recall_at_100=golden_recall)

    manifest = write_bundle_of(store, base, data.vectors, build, attributes)
    store.promote(manifest.bundle_version)
    return Made(manifest, data.queries, reached[0], store.path(manifest.bundle_version) / INDEX)
