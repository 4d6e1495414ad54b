"""The items of an open bundle, as the ANN service searches them: ids, attributes, vectors and indexes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ann_service.bitsets import BitsetCache
from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.manifest import Manifest
from retrieval.index.lexical.files import LexicalIndex
from retrieval.index.registry import Index

_QUICK_COST = 20_000
"""Largest cost of a quick search, in rows that are read in sequence: about half a millisecond."""

RECALL_AT = 100
"""Number of items in the recall that the manifest states for the index: recall@100."""


@dataclass(frozen=True, eq=False)
class Popularity:
    """The popularity of the items of a bundle. Immutable.

    Attributes:
        shares: Share of each item in the training events of all items: [item_count] float32, 0 to 1.
        order: Rows of the items, most popular first, ties by row: [item_count] int32.
    """

    shares: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(counts: np.ndarray, total: int | None = None) -> Popularity:
        """Returns the popularity of items.

        Args:
            counts: [item_count] integers, number of training events of each item.
            total: number of training events of the whole catalogue, if these items are one shard. Default: their sum.
        """
        total = int(counts.sum(dtype=np.int64)) if total is None else total
        shares = (counts / max(1, total)).astype(np.float32)
        return Popularity(shares, np.argsort(-shares, kind="stable").astype(np.int32))


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items, vectors and indexes of an open bundle. Immutable, except for the cache.

    Attributes:
        manifest: Manifest of the bundle.
        items: Item ids and attributes; row i belongs to row i of `vectors`.
        vectors: [item_count, dimension] float32, unit length, memory-mapped.
        index: Index over `vectors`.
        filter_cache: Cached matches of filters.
        lexical: Index over the words of the items; None if the bundle has none.
        popularity: Popularity of the items; None if the bundle has none.
    """

    manifest: Manifest
    items: ItemTable
    vectors: np.ndarray
    index: Index
    filter_cache: BitsetCache = field(default_factory=lambda: BitsetCache(0))
    lexical: LexicalIndex | None = None
    popularity: Popularity | None = None

    @property
    def lexical_attributes(self) -> tuple[str, ...]:
        """Names of the attributes that the lexical index reads; empty if the bundle has no lexical index."""
        return () if self.lexical is None else self.lexical.attributes

    @property
    def has_popularity(self) -> bool:
        """Whether the bundle knows the popularity of its items."""
        return self.popularity is not None

    @property
    def cache_bytes(self) -> int:
        """Size of the cached matches of filters, in bytes."""
        return self.filter_cache.size_bytes

    @cached_property
    def is_quick(self) -> bool:
        """Whether an ordinary search takes less than a millisecond or so."""
        cost = min(self.manifest.item_count, self.index.cost(RECALL_AT, self.default_budget(RECALL_AT)))
        return cost <= _QUICK_COST

    def default_budget(self, k: int) -> int:
        """Returns the search budget for `k` items, with which recall@k is at least the recall@100 in the manifest.

        For fewer than 100 items, it is the budget of 100 items.
        """
        return self.index.raise_budget(self.manifest.index.search_budget, RECALL_AT, max(k, RECALL_AT))
