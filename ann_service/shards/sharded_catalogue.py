"""A catalogue in shards, as the front sees it, and the interface of its open shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.shards.shard import Found
from retrieval.bundle.catalogue.items import COLUMN_TYPES, Column, ItemTable
from retrieval.bundle.catalogue.parts import paths_of
from retrieval.bundle.layout import POPULARITY
from retrieval.bundle.manifest import Manifest
from retrieval.index.hits import Hits
from retrieval.steps import Steps

ShardState = Literal["open", "opening", "silent"]
"""State of a shard: a replica of it answers and has the version open; replicas answer, but none has the version open
yet, for instance because it was started anew; no replica answers."""


class OpenShards(Protocol):
    """The open shards of one bundle, wherever they are. Safe for several threads.

    Dropping the last reference closes them.

    Attributes:
        lexical_attributes: Names of the attributes that the lexical index reads; empty if there is none.
        cache_bytes: Size of the cached matches of filters in this process, in bytes.
    """

    @property
    def lexical_attributes(self) -> tuple[str, ...]:  # noqa: D102
        ...

    @property
    def cache_bytes(self) -> int:  # noqa: D102
        ...

    def states(self) -> list[ShardState]:
        """Returns the state of each shard at this moment, as far as it is known."""
        ...

    def search(self, body: bytes, timeout_s: float) -> Steps[list[bytes | None]]:
        """Returns the response of each shard to a request; None for a shard that does not answer in time.

        Args:
            body: serialized `SearchItemsRequest`; see `ann_service.shards.shard.Shard.search`.
            timeout_s: longest wait for shards on other machines, in seconds.
        """
        ...

    def find(self, item_ids: Sequence[str], timeout_s: float) -> Steps[list[Found | None]]:
        """Returns which of some items each shard holds; None for a shard that does not answer in time.

        Args:
            item_ids: external ids, distinct.
            timeout_s: longest wait for shards on other machines, in seconds.
        """
        ...


class _NoIndex:
    """Stands for the index where requests are only parsed: the shards choose their budgets."""

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        raise NotImplementedError("a search goes to the shards")

    def cost(self, k: int, budget: int) -> float:
        return 0.0

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        return budget


@dataclass(frozen=True, eq=False)
class ShardedCatalogue:
    """The items of an open bundle whose catalogue is in shards. Immutable.

    Attributes:
        manifest: Manifest of the bundle.
        shards: Open shards.
        allows_partial: Whether the shards that answer may answer without the others.
    """

    manifest: Manifest
    shards: OpenShards
    allows_partial: bool

    is_quick = False
    """An answer waits for other threads or machines, so the event loop never works on one."""

    @property
    def lexical_attributes(self) -> tuple[str, ...]:
        """Names of the attributes that the lexical index reads; empty if the bundle has no lexical index."""
        return self.shards.lexical_attributes

    @property
    def cache_bytes(self) -> int:
        """Size of the cached matches of filters in this process, in bytes."""
        return self.shards.cache_bytes

    @cached_property
    def has_popularity(self) -> bool:
        """Whether the bundle knows the popularity of its items."""
        return paths_of(self.manifest, POPULARITY)[0] in self.manifest.files

    @cached_property
    def without_items(self) -> Catalogue:
        """A catalogue without items, for parsing searches that name no items to be similar to."""
        return self.with_items([], np.zeros((0, self.manifest.dimension), dtype=np.float32))

    def coverage(self, answered: Iterable[bool]) -> float:
        """Returns the share of the items in some shards, 0 to 1.

        Args:
            answered: whether each shard is counted, in the order of the manifest.
        """
        pairs = zip(self.manifest.shards, answered, strict=True)
        return sum(shard.item_count for shard, counted in pairs if counted) / self.manifest.item_count

    def with_items(
        self, item_ids: Sequence[str], vectors: np.ndarray, columns: Mapping[str, Column] | None = None
    ) -> Catalogue:
        """Returns a catalogue of a few items, whose data are given.

        A request that is parsed with it has the same faults, and the same query embeddings, as with the whole
        catalogue, if these are the items that its searches name in `similar_to`.

        Args:
            item_ids: [n] external ids, distinct.
            vectors: [n, dimension] float32, their vectors.
            columns: columns of [n] values by attribute name. Default: all attributes, without a value.
        """
        if columns is None:
            missing = [None] * len(item_ids)
            columns = {name: COLUMN_TYPES[kind].of(missing) for name, kind in self.manifest.attributes.items()}
        return Catalogue(self.manifest, ItemTable.of(item_ids, columns), vectors, _NoIndex())
