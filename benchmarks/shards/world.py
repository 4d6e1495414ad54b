"""Catalogues of synthetic items in shards and in one piece, and services over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.shards.shard import Shard
from benchmarks.shards.reference import Reference
from retrieval.bundle.catalogue.parts import parts_of
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from testbed.services import Replica
from testbed.shards.bundles import write_catalogue_bundle
from testbed.synthetic_vectors import Data
from trainer.recipe.recipe import Index

LOAD_S = 300.0
"""Longest wait for a service to serve, in seconds."""

_RECALL = 0.95
_FLAGS = {"drain-delay-s": "0", "poll-interval-s": "0.2", "retry-after-s": "1"}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A bundle of synthetic items, in a store of its own or with others.

    Attributes:
        store: Store that holds it.
        manifest: Manifest of the bundle.
        data: Its vectors, and the queries.
    """

    store: FolderStore
    manifest: Manifest
    data: Data

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.manifest.bundle_version

    def size_bytes(self) -> int:
        """Returns the size of its files in bytes."""
        return sum(entry.size_bytes for entry in self.manifest.files.values())

    def reference(self, budget: int | None) -> Reference:
        """Returns the right answers; the shards are opened in this process, and closed again.

        Args:
            budget: search budget of searches by index in each shard; None: that of the bundle.
        """
        loader = CatalogueLoader(self.store, AnnConfig(store=str(self.store.root)))
        parts = parts_of(self.manifest)
        shards = [Shard(each) for each in loader.open_parts(self.version, parts, ())]
        return Reference.of(self.manifest, self.data.vectors, self.data.queries, shards, budget)


def make(root: Path, data: Data, shard_count: int, trees: int, recall: float = _RECALL, number: int = 0) -> Catalogue:
    """Makes a bundle and promotes it, unless an earlier run has left it in the store.

    Args:
        root: folder of the store.
        data: item vectors and queries.
        shard_count: number of shards; 1: one index.
        trees: number of trees of each index.
        recall: recall@100 that it has to reach with the least search budget, 0 to 1.
        number: number of the bundle in the store, from 0 on; it is the seed of its indexes too.
    """
    store = FolderStore(root)
    versions = store.versions()
    if len(versions) > number:
        manifest = store.manifest(versions[number])
        store.promote(versions[number])
    else:
        settings = Index(trees=(trees,), min_recall_at_100=recall, shards=shard_count)
        manifest = write_catalogue_bundle(store, data, settings, seed=number + 1)
    return Catalogue(store, manifest, data)


@contextmanager
def serving(catalogue: Catalogue, folder: Path, flags: Mapping[str, str] | None = None) -> Iterator[Replica]:
    """Runs the ANN service over the live bundle of a store, once it serves.

    Raises:
        PairError: it does not serve in time.
    """
    replica = Replica("ann_service", catalogue.store.root, folder, {**_FLAGS, **(flags or {})})
    try:
        replica.start()
        replica.wait_until_serving(LOAD_S)
        yield replica
    finally:
        replica.stop()
