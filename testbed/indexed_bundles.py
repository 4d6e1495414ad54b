"""A bundle of any size to search: made vectors in clusters, with an index whose recall is known."""

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
    """Writes and promotes a bundle of the model of `base` with an Annoy index; see `make_of`.

    Args:
        store: that holds `base`.
        base: bundle whose tower it takes.
        item_count: rows, at least 1,000.
        trees: of the index.
        recall: recall@100 to reach.
        seed: of vectors and index.

    Raises:
        ExportError: so many trees do not reach that recall with any budget.
    """
    data = make_data(item_count, seed=seed, dimension=store.manifest(base).dimension)
    return make_of(store, base, data, Index(trees=(trees,), min_recall_at_100=recall), seed)


def make_of(store: BundleStore, base: str, data: Data, settings: Index, seed: int = 1) -> Made:
    """Writes and promotes a bundle of the model of `base`.

    Args:
        store: that holds `base`.
        base: bundle whose tower it takes.
        data: vectors, and queries to choose the search budget with: the least, of steps by a quarter, that finds
            enough.
        settings: of the index: its kind, and the recall to reach.
        seed: of the index.

    Raises:
        ExportError: no budget reaches that recall.
    """
    reached: list[float] = []

    def build(path: Path, golden_queries: np.ndarray) -> IndexSpec:
        spec = index_selection.build(data.vectors, data.queries, path, settings=settings, seed=seed)
        reached.append(spec.recall_at_100)
        # A service checks the recall on the golden queries, which are not drawn as the items are.
        golden_recall = measure_recall(path, data.vectors, golden_queries, spec)
        return dataclasses.replace(spec, recall_at_100=golden_recall)

    manifest = write_bundle_of(store, base, data.vectors, build)
    store.promote(manifest.bundle_version)
    return Made(manifest, data.queries, reached[0], store.path(manifest.bundle_version) / INDEX)
