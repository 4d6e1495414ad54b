"""What a search does with its candidates: boosts, diversity, group limits and facets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client.errors import InvalidRequest
from two_tower_client.filters import Filter


@dataclass(frozen=True, slots=True)
class Boost:
    """A business rule: an addition to the score of the items that match a filter.

    It decides which items are returned, and their order. It does not change their scores.

    Attributes:
        filter: Items to move; see `two_tower_client.filters`.
        weight: Addition to the score, -1 to 1, or -100 to 100 with ranking "lexical", and not 0. Negative: the items
            move down. The absolute weights of a search add up to at most 1, or 100.

    Example:
        >>> from two_tower_client import filters
        >>> Boost(filters.equals("brand", "own"), 0.05).weight
        0.05
    """

    filter: Filter
    weight: float


@dataclass(frozen=True, slots=True)
class Diversify:
    """Chooses the items of a result one after the other, so that they differ from each other.

    Attributes:
        diversity: Weight of diversity against relevance, 0 to 1: the next item has the largest (1 - diversity) *
            relevance - diversity * (largest cosine similarity with an item chosen before). Default: 0, relevance alone.
        group_limits: Largest number of items with the same value of an attribute, by the name of the attribute, such as
            ``{"brand": 2}``; at most 4 attributes. Default: no limits.
    """

    diversity: float = 0.0
    group_limits: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Facet:
    """An attribute whose values are counted over the candidates.

    Attributes:
        attribute: Name of the attribute.
        limit: Largest number of values to return, 1 to 1,000.
    """

    attribute: str
    limit: int = 10


class RerankingOptions(TypedDict, total=False):
    """The options of a search that look at its candidates.

    Attributes:
        candidates_limit: Number of candidates: the best items of the ranking, and of what boosts favour. `k` to 10,000.
            Default (0): 100 or twice `k`, whichever is more. Not used without the other options.
        boosts: Business rules, at most 10. Default: none.
        diversify: Makes the items differ from each other. Default: the best candidates, however alike.
        facets: Attributes whose values are counted over the candidates, at most 8; a name stands for a facet of 10
            values. Default: none.
    """

    candidates_limit: int
    boosts: Sequence[Boost]
    diversify: Diversify | None
    facets: Sequence[Facet | str]


def add_reranking(
    message: ann_pb2.Search,
    path: str,
    candidates_limit: int,
    boosts: Sequence[Boost],
    diversify: Diversify | None,
    facets: str | Sequence[Facet | str],
) -> None:
    """Adds the options to the message of a search.

    Args:
        message: Message to add to.
        path: Field path of the search, for error messages.
        candidates_limit: See `RerankingOptions`, as for the next three. A single string counts as a list of one.
        boosts: Business rules.
        diversify: Makes the items differ.
        facets: Attributes to count.

    Raises:
        InvalidRequest: If a value has a wrong type or size.
    """
    facets = [facets] if isinstance(facets, str) else facets
    current = f"{path}.candidates_limit"
    try:
        message.candidates_limit = candidates_limit
        for number, boost in enumerate(boosts):
            current = f"{path}.boosts[{number}]"
            _check(boost, Boost, current)
            if not math.isfinite(boost.weight):
                raise InvalidRequest.in_field(f"{current}.weight", f"has to be finite, got {boost.weight}")
            message.boosts.add(filter=boost.filter, weight=boost.weight)
        if diversify is not None:
            current = f"{path}.diversify"
            _check(diversify, Diversify, current)
            message.diversify.diversity = diversify.diversity
            for name, size in diversify.group_limits.items():
                message.diversify.group_limits.add(attribute=name, max_group_size=size)
        for number, facet in enumerate(facets):
            current = f"{path}.facets[{number}]"
            facet = Facet(facet) if isinstance(facet, str) else facet
            _check(facet, Facet, current)
            message.facets.add(attribute=facet.attribute, limit=facet.limit)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest.in_field(current, f"a value has a wrong type or size: {error}") from error


def _check(value: Any, kind: type, path: str) -> None:
    if not isinstance(value, kind):
        raise InvalidRequest.in_field(path, f"has to be a {kind.__name__}, got {value!r:.80}")
