"""Opens bundles, in one piece or in shards, and refuses those that do not pass the load gates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.plan import SearchPlan
from ann_service.shards.merge import merge
from ann_service.shards.sharded_catalogue import OpenShards, ShardedCatalogue
from retrieval.bundle.errors import BundleRefused, StoreError
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES
from retrieval.bundle.manifest import Manifest
from retrieval.serving.bundles.verification import read_golden_queries
from retrieval.steps import run_to_end
from retrieval.store.store import BundleStore
from two_tower.ann.v1 import ann_service_pb2 as pb

_SCORE_TOLERANCE = 1e-5
"""Scores that differ by no more are a tie."""

_GOLDEN_TIMEOUT_S = 60.0
"""Longest wait for the answers to the golden queries, in seconds: shards that were just opened read from disk."""


class Engine(Protocol):
    """Opens the shards of bundles, in this process or on other machines."""

    def open(self, manifest: Manifest, beside: Collection[str]) -> OpenShards:
        """Returns the shards of a bundle, verified and warmed up, once all of them are open.

        Args:
            manifest: manifest of the bundle.
            beside: versions of the bundles that stay open, so that memory has to hold them in addition.

        Raises:
            BundleError: a shard was refused, or could not be opened in time.
        """
        ...

    def close(self) -> None:
        """Gives back what the engine holds; nothing is asked of it afterwards."""
        ...


class BundleLoader:
    """Opens the catalogues of bundles."""

    def __init__(self, store: BundleStore, config: AnnConfig, loader: CatalogueLoader, engine: Engine) -> None:
        """Takes the store, the settings, the loader of catalogues in one piece, and the engine of shards."""
        self._store, self._config = store, config
        self._loader, self._engine = loader, engine

    def open(self, version: str, beside: Collection[str]) -> Catalogue | ShardedCatalogue:
        """Returns the catalogue of a bundle, verified and warmed up.

        Args:
            version: bundle version.
            beside: versions of the bundles that stay open, so that memory has to hold them in addition.

        Raises:
            BundleError: a gate refused it; see `ann_service.loader.CatalogueLoader`. Gate ``canaries`` also if the
                merged answers of the shards are not those of the bundle.
        """
        manifest = self._store.manifest(version)
        if not manifest.shards:
            return self._loader.open(version, beside)
        self._store.verify(version, [GOLDEN_QUERIES])
        golden_queries = read_golden_queries(self._store.path(version), manifest)
        shards = self._engine.open(manifest, beside)
        allows_partial = self._config.partial_answers == "allow"
        catalogue = ShardedCatalogue(manifest, shards, allows_partial)
        _check_top_items(catalogue, golden_queries)
        return catalogue


def _check_top_items(catalogue: ShardedCatalogue, golden_queries: GoldenQueries) -> None:
    """Checks that the shards together return the published items and scores for each golden query.

    Raises:
        BundleRefused: gate ``canaries``: a golden query returns other items or scores.
        StoreError: a shard did not answer.
    """
    version, count = catalogue.manifest.bundle_version, golden_queries.top_scores.shape[1]
    searches = [
        pb.Search(embedding=pb.Embedding(values=query), k=count, exact=True) for query in golden_queries.embeddings
    ]
    body = pb.SearchItemsRequest(searches=searches).SerializeToString()
    answers = run_to_end(catalogue.shards.search(body, _GOLDEN_TIMEOUT_S))
    results = [pb.SearchItemsResponse.FromString(each).results for each in answers if each is not None]
    if len(results) < len(answers):
        raise StoreError(f"{len(answers) - len(results)} shards of {version} did not answer the golden queries")
    plan = SearchPlan(np.zeros(0), count, None, np.zeros(0, dtype=np.int64), None, True, 1)
    for number, (expected, scores) in enumerate(zip(golden_queries.top_items, golden_queries.top_scores, strict=True)):
        merged = run_to_end(merge(plan, [[result[number] for result in results]]))
        found = np.array(merged.scores, dtype=np.float32)
        # Items that tie with the last one may be others.
        certain = {item for item, score in zip(expected, scores, strict=True) if score > scores[-1] + _SCORE_TOLERANCE}
        if found.shape != scores.shape or not np.max(np.abs(found - scores)) <= _SCORE_TOLERANCE:
            fault = f"scores {found[:3]} …, expected {scores[:3]} …"
        elif missing := certain - set(merged.item_ids):
            fault = f"not the items {sorted(missing)[:3]}"
        else:
            continue
        message = f"golden query {number} gets {fault} from the shards together; publish the bundle again"
        raise BundleRefused(version, "canaries", message)
