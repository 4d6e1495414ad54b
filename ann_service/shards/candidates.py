"""The candidates that the shards found for a search, as a small catalogue of their own, for its reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ann_service import responses
from ann_service.bitsets import BitsetCache
from ann_service.filters.match import match_steps
from ann_service.plan import Boost, SearchPlan
from ann_service.reranking.rerank import rerank
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.index.hits import Hits
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb


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

    @property
    def item_ids(self) -> dict[str, None]:
        """Distinct ids of the candidates, in the order of the lists."""
        return dict.fromkeys(item_id for each in self.lists for item_id in each.item_ids)

    def rerank(self, catalogue: ShardedCatalogue, vectors: Mapping[str, np.ndarray]) -> Steps[pb.SearchResult]:
        """Returns the result of the search.

        Args:
            catalogue: catalogue that was searched.
            vectors: [dimension] float32, unit length, of each candidate by id, if `needs_vectors`; candidates that are
                not in it are left out.
        """
        reranking, needs_vectors = self.plan.reranking, self.needs_vectors
        assert reranking is not None
        item_ids = [item_id for item_id in self.item_ids if not needs_vectors or item_id in vectors]
        rows = {item_id: row for row, item_id in enumerate(item_ids)}
        columns: dict[str, list[Any]] = {}
        for each in self.lists:
            places = [rows.get(item_id, -1) for item_id in each.item_ids]
            for column in each.attributes:
                values = columns.setdefault(column.name, [None] * len(item_ids))
                for place, value in zip(places, _values(column), strict=True):
                    if place >= 0:
                        values[place] = value
            yield
        matrix = np.zeros((len(item_ids), catalogue.manifest.dimension), dtype=np.float32)
        if needs_vectors and item_ids:
            np.stack([vectors[item_id] for item_id in item_ids], out=matrix)
        small = catalogue.for_parsing(item_ids, matrix, columns)
        yield
        boosts: list[Boost] = []
        for boost in reranking.boosts:  # their filters are valid: they were parsed before
            matches = yield from match_steps(small.items, BitsetCache(0), boost.filter, "filter")
            boosts.append(replace(boost, matches=matches))
        plan = self.plan._replace(reranking=replace(reranking, boosts=tuple(boosts)))
        lists: list[Hits] = []
        for each in self.lists:
            lists.append(_hits(each, rows))
            yield
        result = yield from rerank(small, plan, lists)
        response = responses.begin(catalogue.manifest, "")
        yield from responses.add(response, small, [plan], [result])
        return pb.SearchItemsResponse.FromString(response.getvalue()).results[0]


def _hits(result: pb.SearchResult, rows: Mapping[str, int]) -> Hits:
    """Returns the items of a list as hits of the small catalogue, without those that it lacks."""
    kept = [
        (rows[item_id], score) for item_id, score in zip(result.item_ids, result.scores, strict=True) if item_id in rows
    ]
    return Hits(
        np.array([row for row, _ in kept], dtype=np.int64), np.array([score for _, score in kept], dtype=np.float32)
    )


def _values(column: pb.AttributeColumn) -> list[Any]:
    """Returns the value of an attribute of each item; None for an item without a value."""
    kind = column.WhichOneof("values")
    if kind is None:
        return []
    values = getattr(column, kind).values
    found: list[Any] = [tuple(each.values) for each in values] if kind == "string_lists" else values[:]
    for position in column.missing:
        found[position] = None
    return found
