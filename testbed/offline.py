"""Computes the answers of a bundle without services, to check served answers against them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from annoy import AnnoyIndex

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import INDEX, ITEMS
from retrieval.inference.deployed_bundle import DeployedBundle
from retrieval.store.store import BundleStore

_OPENING = threading.Lock()
"""Bundles are opened one after another: Python 3.11 may fail to parse headers of arrays in several threads at once."""

SCORE_TOLERANCE = 1e-4
"""Largest difference between two computations of the same score. Scores of different models differ by far more."""


class OfflineBundle:
    """A bundle opened in this process, with the embeddings of a fixed list of queries."""

    def __init__(self, store: BundleStore, version: str, queries: Sequence[Mapping[str, Any]]) -> None:
        """Opens the bundle and embeds the queries.

        Args:
            store: store that holds the bundle.
            version: version of the bundle.
            queries: for each query the features by name, scalars or lists.
        """
        with _OPENING:
            self._open(store, version, queries)

    def _open(self, store: BundleStore, version: str, queries: Sequence[Mapping[str, Any]]) -> None:
        folder = store.path(version)
        self.manifest = store.manifest(version)
        bundle = DeployedBundle.open(store, version)
        names = bundle.query_tower.schema.by_name
        columns = {name: [query.get(name) for query in queries] for name in names}
        self.embeddings = bundle.embed(columns, len(queries))  # [n, dim]
        self.vectors = bundle.vectors
        self.items = ItemTable.read(folder / ITEMS, self.manifest.attributes)
        self._index_path = str(folder / INDEX)

    @cached_property
    def _index(self) -> AnnoyIndex:
        index = AnnoyIndex(self.manifest.dimension, "angular")
        index.load(self._index_path)
        return index

    def top_scores(self, query: int, k: int) -> np.ndarray:
        """Returns the scores of the results of the bundle's index for a query: [n] float32, best first, n at most `k`.

        Args:
            query: position of the query in the list.
            k: number of items.
        """
        budget = self.manifest.index.search_budget
        rows = self._index.get_nns_by_vector(self.embeddings[query], k, budget)
        return np.sort(self._scores(query, rows))[::-1]

    def agrees(self, query: int, item_ids: Sequence[str], scores: Sequence[float]) -> bool:
        """Returns whether an answer to a query is right for this bundle.

        The score of every item has to be the one computed from this bundle's vectors. The list of scores has to be that
        of the bundle's index, or that of an exact scan, which the service uses for small catalogues. An answer from a
        query embedding or an index of another model fails both checks.

        Args:
            query: position of the query in the list.
            item_ids: [n] ids of the answer, best first.
            scores: [n] scores of the answer.
        """
        rows = [self.items.rows.get(item_id, -1) for item_id in item_ids]
        if -1 in rows or len(set(rows)) != len(rows):
            return False
        own = self._scores(query, rows)
        served = np.array(scores)
        if not np.abs(own - served).max() < SCORE_TOLERANCE:
            return False
        exact = np.sort(self._scores(query, slice(None)))[::-1][: len(rows)]
        return any(np.abs(s - served).max() < SCORE_TOLERANCE for s in (self.top_scores(query, len(rows)), exact))

    def _scores(self, query: int, rows: Any) -> np.ndarray:
        """Returns the cosine similarities between a query and the items of some rows: [n] float32.

        Args:
            query: position of the query in the list.
            rows: [n] rows of the items.
        """
        return self.vectors[rows] @ self.embeddings[query]
