"""The candidates that the shards found for a search, as a small catalogue of their own, for its reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ann_service import responses
from ann_service.bitsets import BitsetCache
from ann_service.catalogue import Catalogue
from ann_service.filters.match import match_steps
from ann_service.plan import Boost, SearchPlan
from ann_service.reranking.rerank import rerank
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.bundle.catalogue.items import COLUMN_TYPES, Column
from retrieval.index.hits import Hits
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_ITEMS_PER_STEP = 1000
"""Number of items whose values or vectors are read at once: about a millisecond."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The lists of candidates of a search with a reranking, merged over the shards.

    Attributes:
        plan: The search.
        lists: Items of each list, with all attributes that the reranking reads.
    """

    plan: SearchPlan
    lists: Sequence[pb.SearchResult]

    @property
    def needs_vectors(self) -> bool:
        """Whether the reranking compares the candidates with each other."""
        return self.plan.reranking is not None and self.plan.reranking.diversity > 0.0

    def rerank(self, catalogue: ShardedCatalogue, vectors: Mapping[str, np.ndarray]) -> Steps[pb.SearchResult]:
        """Returns the result of the search.

        Args:
            catalogue: catalogue that was searched.
            vectors: [dimension] float32, unit length, of each candidate by id, if `needs_vectors`; candidates that are
                not in it are left out.
        """
        reranking, needs_vectors = self.plan.reranking, self.needs_vectors
        assert reranking is not None
        rows: dict[str, int] = {}
        for each in self.lists:
            for item_id in each.item_ids:
                if not needs_vectors or item_id in vectors:
                    rows.setdefault(item_id, len(rows))
            yield
        lists: list[Hits] = []
        values: dict[str, list[Any]] = {}
        for each in self.lists:
            own = np.array([rows.get(item_id, -1) for item_id in each.item_ids], dtype=np.int64)
            lists.append(Hits(own[own >= 0], np.array(each.scores, dtype=np.float32)[own >= 0]))
            yield
            for column in each.attributes:
                of_all = values.setdefault(column.name, [None] * len(rows))
                for row, value in zip(own.tolist(), (yield from _values(column)), strict=True):
                    if row >= 0:
                        of_all[row] = value
                yield
        small = yield from _small_catalogue(catalogue, list(rows), vectors if needs_vectors else {}, values)
        boosts: list[Boost] = []
        for boost in reranking.boosts:  # their filters are valid: they were parsed before
            matches = yield from match_steps(small.items, BitsetCache(0), boost.filter, "filter")
            boosts.append(replace(boost, matches=matches))
        plan = self.plan._replace(reranking=replace(reranking, boosts=tuple(boosts)))
        result = yield from rerank(small, plan, lists)
        response = responses.begin(catalogue.manifest, "")
        yield from responses.add(response, small, [plan], [result])
        return pb.SearchItemsResponse.FromString(response.getvalue()).results[0]


def _small_catalogue(
    catalogue: ShardedCatalogue,
    item_ids: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    values: Mapping[str, Sequence[Any]],
) -> Steps[Catalogue]:
    """Returns a catalogue of a few items.

    Args:
        catalogue: the catalogue that they are of.
        item_ids: [n] external ids, distinct.
        vectors: [dimension] float32, of each item by id; empty: they are not read.
        values: [n] values of attributes by name.
    """
    matrix = np.zeros((len(item_ids), catalogue.manifest.dimension), dtype=np.float32)
    for start in range(0, len(item_ids) if vectors else 0, _ITEMS_PER_STEP):
        part = slice(start, start + _ITEMS_PER_STEP)
        np.stack([vectors[item_id] for item_id in item_ids[part]], out=matrix[part])
        yield
    columns: dict[str, Column] = {}
    for name, of_items in values.items():
        columns[name] = COLUMN_TYPES[catalogue.manifest.attributes[name]].of(of_items)
        yield
    small = catalogue.with_items(item_ids, matrix, columns)
    yield
    return small


def _values(column: pb.AttributeColumn) -> Steps[list[Any]]:
    """Returns the value of an attribute of each item; None for an item without a value."""
    kind = column.WhichOneof("values")
    if kind is None:
        return []
    values = getattr(column, kind).values
    found: list[Any] = []
    for start in range(0, len(values), _ITEMS_PER_STEP):
        part = values[start : start + _ITEMS_PER_STEP]
        found += [tuple(each.values) for each in part] if kind == "string_lists" else part
        yield
    for position in column.missing:
        found[position] = None
    return found
