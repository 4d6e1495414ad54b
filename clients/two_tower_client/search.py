"""A search, its options, and its protobuf message."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.filters import Filter
from two_tower_client.reranking import Boost, Diversify, Facet, RerankingOptions, add_reranking
from two_tower_client.results import Embeddings

Ranking = Literal["embedding", "lexical", "fused"]
"""What orders the items: cosine similarity ("embedding"), BM25 of a text ("lexical"), or both, by reciprocal-rank
fusion ("fused")."""

_RANKINGS: dict[str, ann_pb2.Ranking.ValueType] = {
    "embedding": ann_pb2.RANKING_UNSPECIFIED,  # the default, which ANN services without lexical ranking accept too
    "lexical": ann_pb2.RANKING_LEXICAL,
    "fused": ann_pb2.RANKING_FUSED,
}
_EXPECTED = {"exclude_item_ids": "takes ids, which are strings", "filter": "takes what two_tower_client.filters makes"}


class SearchOptions(RerankingOptions, total=False):
    """The options of a search besides its target and `k`: those of `RerankingOptions`, and these.

    Attributes:
        exclude: Ids of items to leave out, for instance items that the user has seen; at most 100,000.
        filter: Condition that the items have to match; see `two_tower_client.filters`. Default: all items.
        min_score: Smallest score of an item, in the unit of `Retrieval.scores`: -1 to 1 with ranking "embedding", 0 or
            more otherwise. Default: no limit.
        exact: Whether to scan every item instead of using the index: exact, but slower. Default: False.
        search_budget: Effort of the index, at most 10,000,000, in the unit of its kind (`OpenBundle.index_kind`). A
            larger budget finds more of the true neighbours and takes longer. Default (0): the budget that the publisher
            of the bundle measured.
        return_attributes: Names of item attributes to return, for instance "title". Default: none.
        ranking: "embedding" (default), "lexical" or "fused". The last two need a text, and a bundle with a lexical
            index (`OpenBundle.lexical_attributes`).
        fusion_constant: Constant of reciprocal-rank fusion, 1 to 10,000, for ranking "fused". The larger it is, the
            less the first ranks outweigh later ones. Default (0): 60.
    """

    exclude: Sequence[str]
    filter: Filter | None
    min_score: float | None
    exact: bool
    search_budget: int
    return_attributes: Sequence[str]
    ranking: Ranking
    fusion_constant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search.

    - Ranking "embedding": give one of `embedding`, `similar_to` and `popular`. The items nearest to the embedding or to
      the mean of those items, or the most popular items, come first.
    - Ranking "lexical": give `text` alone. Items are ranked by BM25; only items that share a word with the text match.
    - Ranking "fused": give `text`, and either `embedding` or `similar_to`. Both rankings are fused into one.

    A single string for `similar_to`, `exclude`, `return_attributes` or `facets` counts as a list of one.

    Attributes:
        embedding: [dim] finite floats, not all zero.
        similar_to: Ids of 1 to 1,000 items of the bundle. The result leaves these items out.
        popular: Whether to return the most popular items of the bundle: those with the most training events.
        text: Query text, 1 to 1,000 characters, for ranking "lexical" or "fused".
        k: Number of items to return, at least 1.
        exclude: See `SearchOptions`, as for all attributes below.
        filter: Condition that the items have to match.
        min_score: Smallest score of an item.
        exact: Whether to scan every item.
        search_budget: Effort of the index.
        return_attributes: Names of item attributes to return.
        ranking: What orders the items.
        fusion_constant: Constant of reciprocal-rank fusion.
        candidates_limit: See `RerankingOptions`, as for the next three.
        boosts: Business rules.
        diversify: Makes the items differ from each other.
        facets: Attributes whose values are counted over the candidates.
    """

    embedding: Sequence[float] | None = None
    similar_to: str | Sequence[str] | None = None
    popular: bool = False
    text: str = ""
    k: int = 10
    exclude: str | Sequence[str] = ()
    filter: Filter | None = None
    min_score: float | None = None
    exact: bool = False
    search_budget: int = 0
    return_attributes: str | Sequence[str] = ()
    ranking: Ranking = "embedding"
    fusion_constant: int = 0
    candidates_limit: int = 0
    boosts: Sequence[Boost] = ()
    diversify: Diversify | None = None
    facets: str | Sequence[Facet | str] = ()


def with_embeddings(searches: Sequence[Search], embeddings: Embeddings) -> list[Search]:
    """Returns each search with the embedding of its query.

    Raises:
        ServerError: If the number of embeddings differs from the number of searches.
    """
    count = len(embeddings.vectors)
    if count != len(searches):
        raise ServerError(f"the query tower made {count} embeddings of {len(searches)} queries; see its log")
    return [replace(search, embedding=vector) for search, vector in zip(searches, embeddings.vectors, strict=True)]


def add_search(request: ann_pb2.SearchItemsRequest, search: Search, path: str) -> None:
    """Adds a search to a request, in place, which saves copying a separate message.

    Args:
        request: Request to add to.
        search: Search to add.
        path: Field path of the search, for error messages.

    Raises:
        InvalidRequest: If target, text and ranking do not fit together, or a value has a wrong type or size.
    """
    targets = _check_ranking(search, path)
    if isinstance(search.k, bool) or not hasattr(search.k, "__index__") or operator.index(search.k) < 1:
        raise InvalidRequest.in_field(f"{path}.k", f"has to be a whole number of at least 1, got {search.k!r}")
    fields: dict[str, Any] = {
        "k": search.k,
        "filter": search.filter,
        "exclude_item_ids": to_list(search.exclude),
        "min_score": search.min_score,
        "exact": search.exact,
        "search_budget": search.search_budget,
        "return_attributes": to_list(search.return_attributes),
        "text": search.text,
        "ranking": _RANKINGS[search.ranking],
        "fusion_constant": search.fusion_constant,
    }
    current_path = path
    try:
        message = request.searches.add(**fields)
        current_path = ".".join([path, *targets])
        if search.embedding is not None:
            _set_values(message.embedding, search.embedding)
        if search.similar_to is not None:
            _set_values(message.similar_to, to_list(search.similar_to))
        if search.popular:
            message.popular.SetInParent()
    except (TypeError, ValueError) as error:
        # The message of protobuf often does not name the field.
        name = next((name for name, value in fields.items() if not _fits(name, value)), "")
        expected = _EXPECTED.get(name, "a value has a wrong type or size")
        raise InvalidRequest.in_field(f"{path}.{name}" if name else current_path, f"{expected}: {error}") from error
    if search.candidates_limit or search.boosts or search.diversify is not None or search.facets:
        add_reranking(message, path, search.candidates_limit, search.boosts, search.diversify, search.facets)


def _check_ranking(search: Search, path: str) -> list[str]:
    """Checks that ranking, target and text fit together; returns the name of the target, if there is one.

    Raises:
        InvalidRequest: If they do not.
    """
    if not isinstance(search.ranking, str) or search.ranking not in _RANKINGS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest.in_field(f"{path}.ranking", f"is {search.ranking!r}, expected {', '.join(_RANKINGS)}")
    given = {
        "embedding": search.embedding is not None,
        "similar_to": search.similar_to is not None,
        "popular": search.popular,
    }
    targets = [name for name, is_given in given.items() if is_given]
    if search.ranking == "lexical":
        if targets:
            raise InvalidRequest.in_field(path, 'takes no target where ranking is "lexical"; "fused" takes both')
    elif len(targets) != 1:
        raise InvalidRequest.in_field(path, "takes one of embedding, similar_to and popular")
    if bool(search.text) == (search.ranking == "embedding"):
        fault = "is set but does not rank" if search.text else f"is empty, and ranking is {search.ranking!r}"
        raise InvalidRequest.in_field(f"{path}.text", f'{fault}; give a text with ranking "lexical" or "fused"')
    return targets


def _fits(name: str, value: object) -> bool:
    try:
        ann_pb2.Search(**{name: value})  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return True


def _set_values(message: ann_pb2.Embedding | ann_pb2.ItemIds, values: Sequence[float] | Sequence[str]) -> None:
    message.SetInParent()  # an empty target is sent too, and the service explains the error
    message.values.extend(values)  # pyright: ignore[reportArgumentType]


def to_list(values: str | Sequence[str]) -> Sequence[str]:
    """Returns a list, of one if a single string is given: protobuf would take it for a list of one-letter ids."""
    return [values] if isinstance(values, str) else values
