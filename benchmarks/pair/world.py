"""The data of both benchmarks here: vectors, queries, a bundle for each kind of index, and Qdrant's segment.

Bundles and segment are kept in a folder, because a million vectors take many minutes to index. Search budgets are
chosen on other queries than those of the measurement.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.peers import Peer, build_qdrant
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loader import ModelLoader
from query_tower_service.text_metrics import TextMetrics
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, VECTORS
from retrieval.bundle.manifest import Manifest
from retrieval.index.recall import NEIGHBOURS, exact_top_k
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import make_of
from testbed.movielens import train
from testbed.synthetic_bundles import copy_live
from testbed.synthetic_vectors import Data, spread_items
from trainer.recipe.recipe import Index

K = NEIGHBOURS
_TUNED_ON = 400
_MEASURED = 1000


class World:
    """Synthetic items around those of a trained bundle, indexes over them, and queries.

    Attributes:
        item_count: Number of items.
        features: [m] features by name, of the queries to measure with.
        embeddings: [m, dim] float32, unit length, embeddings of `features` by the query tower.
    """

    def __init__(self, folder: Path, base: Path, item_count: int, recall: float) -> None:
        """Makes the vectors and queries.

        Args:
            folder: folder that keeps the indexes; those of an earlier run are used again.
            base: store whose live bundle has the query tower and the trained items.
            item_count: number of items, at least 1,000.
            recall: recall@100 that the search budgets have to reach.
        """
        self.item_count, self._recall, self._base, self._folder = item_count, recall, base, folder
        store = FolderStore(base)
        version = store.live_version()
        self._vectors = spread_items(np.load(store.path(version) / VECTORS), item_count)
        features = mix_features(GoldenQueries.read(store.path(version) / GOLDEN_QUERIES), _TUNED_ON + _MEASURED)
        embedded = _embed(store, version, features)
        self._tuned_on, self.embeddings = embedded[:_TUNED_ON], embedded[_TUNED_ON:]
        self.features = features[_TUNED_ON:]
        self._nearest = np.zeros((0, K), dtype=np.int64)  # exact nearest of the first `embeddings`, extended on demand

    def bundle(self, kind: str, trees: int) -> tuple[FolderStore, Manifest]:
        """Returns a store and the manifest of its live bundle, which has an index of a kind; makes it if it is missing.

        The search budget is the smallest that reaches the recall; candidate budgets grow by a quarter.

        Args:
            kind: kind of index, see `retrieval.index.registry`.
            trees: number of trees of an Annoy index.
        """
        store = FolderStore(self._folder / f"{self.item_count}-{kind}")
        pointer = store.live()
        if pointer is None or store.manifest(pointer.version).item_count != self.item_count:
            base = copy_live(FolderStore(self._base), store) if pointer is None else pointer.version
            settings = Index(kind=kind, trees=(trees,), links=(16,), min_recall_at_100=self._recall)  # pyright: ignore[reportArgumentType]
            make_of(store, base, Data("spread", self._vectors, self._tuned_on), settings)
        return store, store.manifest(store.live_version())

    def peer(self) -> tuple[Peer, int]:
        """Returns Qdrant's segment over the same vectors, made if it is missing, and its search budget.

        The budget is the smallest that reaches the recall.
        """
        folder = self._folder / f"{self.item_count}-peer"
        folder.mkdir(parents=True, exist_ok=True)
        peer = build_qdrant(self._vectors, folder)
        nearest = exact_top_k(self._tuned_on, self._vectors, K)
        for budget in peer.budgets:
            found = [peer.search(query[np.newaxis], K, budget) for query in self._tuned_on]
            if _recall(found, nearest) >= self._recall:
                return peer, budget
        return peer, peer.budgets[-1]

    def recall(self, found: Sequence[Sequence[int]]) -> float:
        """Returns the recall of results: the share of the exact nearest items in them, as a mean over queries.

        Args:
            found: rows that a search returned, for each of the first `len(found)` queries.
        """
        if len(self._nearest) < len(found):
            self._nearest = exact_top_k(self.embeddings[: len(found)], self._vectors, K)
        return _recall(found, self._nearest[: len(found)])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a world, and of the file for the figures."""
    parser.add_argument("--store", type=Path, help="store whose live bundle has query tower and items (default: train)")
    parser.add_argument("--items", type=int, default=100_000, help="number of items (default: 100,000)")
    parser.add_argument("--trees", type=int, default=50, help="trees of an Annoy index (default: 50)")
    parser.add_argument("--recall", type=float, default=0.95, help="recall@100 of the indexes (default: 0.95)")
    parser.add_argument("--folder", type=Path, help="folder that keeps indexes for the next run (default: temporary)")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")


def open_world(arguments: argparse.Namespace, folder: Path) -> World:
    """Returns the world that the options of `add_options` describe; trains a bundle if they name no store.

    Args:
        arguments: values of the options.
        folder: folder for what is not kept.
    """
    base = arguments.store
    if base is None:
        store = FolderStore(folder / "store")
        train(folder, store, 1, seed=1, force=True)
        base = store.root
    return World(arguments.folder or folder, base, arguments.items, arguments.recall)


def _recall(found: Sequence[Sequence[int]], nearest: np.ndarray) -> float:
    hits = sum(len(set(rows) & set(exact)) for rows, exact in zip(found, nearest.tolist(), strict=True))
    return hits / nearest.size


def mix_features(golden_queries: GoldenQueries, count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Returns the features of `count` synthetic queries.

    Each value is that of a golden query drawn for this feature alone. A list is a random part of two such lists.

    Args:
        golden_queries: golden queries of a bundle.
        count: number of queries.
        seed: seed of the draw.
    """
    generator = random.Random(seed)
    known = {name: [value for value in column if value is not None] for name, column in golden_queries.columns.items()}

    def draw(values: list[Any]) -> Any:
        value = generator.choice(values)
        if isinstance(value, list):
            merged = value + generator.choice(values)
            return generator.sample(merged, generator.randint(min(1, len(merged)), len(merged)))
        return value

    return [{name: draw(values) for name, values in known.items() if values} for _ in range(count)]


def _embed(store: FolderStore, version: str, features: list[dict[str, Any]]) -> np.ndarray:
    model = ModelLoader(store, QueryTowerConfig(store=store.root), TextMetrics(Metrics().registry)).open(version, ())
    columns = {name: [query.get(name) for query in features] for name in features[0]}
    return model.tower.embed(columns, len(features))
