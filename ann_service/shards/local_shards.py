"""Shards in this process: for a bundle in shards that one machine can hold, and for tests."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ann_service.loader import CatalogueLoader
from ann_service.shards.shard import Found, Shard
from ann_service.shards.sharded_catalogue import ShardState
from retrieval.bundle.catalogue.parts import parts_of
from retrieval.bundle.manifest import Manifest
from retrieval.steps import Steps


class LocalShards:
    """The open shards of a bundle, all in this process; see `OpenShards`. They are searched one after the other."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Takes all shards, in the order of the manifest."""
        self._shards = shards

    @property
    def lexical_attributes(self) -> tuple[str, ...]:
        """See `OpenShards`."""
        return self._shards[0].catalogue.lexical_attributes

    @property
    def cache_bytes(self) -> int:
        """See `OpenShards`."""
        return sum(shard.catalogue.cache_bytes for shard in self._shards)

    def states(self) -> list[ShardState]:
        """See `OpenShards`. All shards are open."""
        return ["open"] * len(self._shards)

    def search(self, body: bytes, timeout_s: float) -> Steps[list[bytes | None]]:
        """See `OpenShards`. All shards answer, and there is no time limit but that of the call."""
        responses: list[bytes | None] = []
        for shard in self._shards:
            responses.append((yield from shard.search(body)))
            yield
        return responses

    def find(self, item_ids: Sequence[str], timeout_s: float) -> Steps[list[Found | None]]:
        """See `OpenShards`. All shards answer."""
        found: list[Found | None] = []
        for shard in self._shards:
            found.append(shard.find(item_ids))
            yield
        return found


class LocalEngine:
    """Opens the shards of bundles in this process."""

    def __init__(self, loader: CatalogueLoader) -> None:
        """Takes the loader of catalogues."""
        self._loader = loader

    def open(self, manifest: Manifest, beside: Collection[str]) -> LocalShards:
        """Returns the open shards of a bundle; see `ann_service.shards.loader.Engine`."""
        catalogues = self._loader.open_parts(manifest.bundle_version, parts_of(manifest), beside)
        return LocalShards([Shard(catalogue) for catalogue in catalogues])

    def close(self) -> None:
        """Does nothing: shards are closed with the last reference to them."""
