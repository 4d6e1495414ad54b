"""A search of a request, validated and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ann_service.bitsets import Matches
from retrieval.index.hits import Hits
from two_tower.ann.v1 import ann_service_pb2 as pb


@dataclass(frozen=True)
class TextQuery:
    """The text to rank items by; see `ann_service.fusion`.

    Attributes:
        value: Text of the search.
        fused: Whether the ranking by text is fused with the ranking by embedding; if not, the text alone ranks.
        fusion_constant: Constant of reciprocal rank fusion, at least 1.
    """

    value: str
    fused: bool
    fusion_constant: int


@dataclass(frozen=True, eq=False)
class Boost:
    """An addition to the scores of some items.

    Attributes:
        filter: Filter that these items match.
        weight: Addition to the score, not 0.
        matches: Items that match the filter.
        favoured: Items among which the boost fetches candidates, of those that the search allows: these items or, if
            the weight is negative, the others.
    """

    filter: pb.Filter
    weight: float
    matches: Matches
    favoured: Matches


@dataclass(frozen=True)
class GroupLimit:
    """The largest number of items of a result that share a value of an attribute.

    Attributes:
        attribute: Name of the attribute.
        max_group_size: Largest number of items, at least 1.
    """

    attribute: str
    max_group_size: int


@dataclass(frozen=True)
class Facet:
    """An attribute whose values are counted over the candidates.

    Attributes:
        attribute: Name of the attribute.
        limit: Largest number of values to return, at least 1.
    """

    attribute: str
    limit: int


@dataclass(frozen=True, eq=False)
class Reranking:
    """What a search does with its candidates; see `ann_service.reranking`.

    Attributes:
        candidates_limit: Largest number of candidates, at least `k`.
        boosts: Additions to the scores.
        diversity: Weight of diversity against relevance, 0 to 1.
        group_limits: Largest numbers of items with the same value.
        facets: Attributes to count.
    """

    candidates_limit: int
    boosts: tuple[Boost, ...] = ()
    diversity: float = 0.0
    group_limits: tuple[GroupLimit, ...] = ()
    facets: tuple[Facet, ...] = ()


class Reranked(NamedTuple):
    """The result of a search with a reranking.

    Attributes:
        rows: [n] int64, distinct rows of the catalogue, in the order of the result.
        scores: [n] float32, scores of the ranking, which do not tell the order.
        more: Fields of the result beside items, scores and attributes.
    """

    rows: np.ndarray
    scores: np.ndarray
    more: pb.SearchResult


Result = Hits | Reranked
"""The result of a search: without or with a reranking."""


class SearchPlan(NamedTuple):
    """A validated search. A tuple, because it is quick to make and each search of a request has one.

    Attributes:
        query: Query embedding, [dimension] float32, unit length; [0] if the text or the popularity alone ranks.
        k: Number of items to return, at least 1.
        allowed: Items that match the filter; None: all items.
        excluded: [n] int64, rows to leave out, distinct, ascending.
        min_score: Lowest score to return; None: no limit.
        exact: Whether to use the exact scan instead of the index.
        budget: Search budget of the index for `k` items; with a reranking, for its candidates.
        return_attributes: Names of the item attributes to return.
        text: Text to rank by; None: the embedding alone ranks.
        is_popular: Whether the popularity of the items ranks, and neither the embedding nor a text.
        reranking: What is done with the candidates; None: the best `k` items of the ranking are the result.
    """

    query: np.ndarray
    k: int
    allowed: Matches | None
    excluded: np.ndarray
    min_score: float | None
    exact: bool
    budget: int
    return_attributes: tuple[str, ...] = ()
    text: TextQuery | None = None
    is_popular: bool = False
    reranking: Reranking | None = None

    @property
    def is_unrestricted(self) -> bool:
        """Whether the search has no filter, no exclusions and no lowest score."""
        if self.allowed is not None or len(self.excluded):
            return False
        return self.min_score is None

    def is_excluded(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, are in `excluded`: [n] bool."""
        if not len(self.excluded):
            return np.zeros(len(rows), dtype=bool)
        positions = np.minimum(np.searchsorted(self.excluded, rows), len(self.excluded) - 1)
        return self.excluded[positions] == rows  # [n]
