"""Clients of the ANN service: embeddings, items or a text -> items."""

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc
from two_tower_client.channel import Address
from two_tower_client.client import AsyncClient, Client, ConnectionOptions
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.filters import Filter
from two_tower_client.results import AttributeValue, Embeddings, Retrieval, SearchAnswer

DEFAULT_ADDRESS = "localhost:50052"

Ranking = Literal["embedding", "lexical", "fused"]
"""What orders the items: the cosine with the embedding, the words of a text (BM25), or both by reciprocal ranks."""

_RANKINGS: dict[str, ann_pb2.Ranking.ValueType] = {
    "embedding": ann_pb2.RANKING_UNSPECIFIED,  # the default, which every ANN service knows
    "lexical": ann_pb2.RANKING_LEXICAL,
    "fused": ann_pb2.RANKING_FUSED,
}
_TAKES = {"exclude_item_ids": "takes ids, which are strings", "filter": "takes what two_tower_client.filters makes"}


class SearchOptions(TypedDict, total=False):
    """What a search may ask for beside its target and `k`.

    Attributes:
        exclude: Ids of items to leave out, for instance those the user has seen; at most 100,000.
        filter: Only items that match; see `two_tower_client.filters`. Default: all.
        min_score: Only items with at least this score, in the unit of `Retrieval.scores`: -1 to 1 where the embedding
            ranks, from 0 on where a text does. Default: no limit.
        exact: Scan every item instead of the index: exact, and slower. Default: False.
        search_budget: What the index may inspect, in the unit of its kind (`OpenBundle.index_kind`): more finds more of
            the true neighbours and costs more time. Default (0): what the publisher of the bundle measured.
        return_attributes: Names of item attributes to send along, for instance "title".
        ranking: "embedding" (default), "lexical" or "fused". The last two need a text, and a bundle with a lexical
            index (`OpenBundle.lexical_attributes`).
        fusion_constant: Of "fused", 1 to 10,000: the larger, the less the first ranks outweigh those behind. Default
            (0): 60.
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
    """One search: the items nearest to `embedding`, or to the mean of the items `similar_to`.

    Give one of the two.

    With `ranking="lexical"` give neither: the items that share words with `text` are found. With `"fused"` give one of
    the two and `text`.

    A string where several are expected counts as one.

    Attributes:
        embedding: [dim] floats, finite, not all zero.
        similar_to: Ids of 1 to 1,000 items of the bundle, which are left out of the result.
        text: What was typed, 1 to 1,000 characters, where it ranks.
        k: How many items to return.
        exclude: As in `SearchOptions`, like all that follow.
        filter: Only items that match.
        min_score: Only items with at least this score.
        exact: Scan every item.
        search_budget: What the index may inspect, in the unit of its kind.
        return_attributes: Names of item attributes to send along.
        ranking: What orders the items.
        fusion_constant: Of "fused".
    """

    embedding: Sequence[float] | None = None
    similar_to: str | Sequence[str] | None = None
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


class AnnClient(Client):
    """Calls the ANN service. Threads may share one.

    Args:
        address: Its address, or those of its replicas.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        """Makes channels and stubs, once; they connect at the first call."""
        super().__init__(address, **options)
        self._stubs = itertools.cycle([ann_grpc.AnnServiceStub(channel) for channel in self._open()])

    def search(
        self,
        searches: Sequence[Search],
        *,
        model_version: str = "",
        bundle_version: str = "",
        timeout_s: float | None = None,
    ) -> SearchAnswer:
        """Returns one retrieval for each of `searches`, in their order, all from one bundle.

        Args:
            searches: What to find.
            model_version: The model that made the embeddings; required where there are any.
            bundle_version: Stay on this bundle, for instance while paging. Default: the newest of the model.
            timeout_s: Seconds the call may take. Default: that of the client.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        request = to_request(searches, model_version, bundle_version)
        return to_answer(self._call(next(self._stubs).SearchItems, request, timeout_s), len(searches))

    def status(self, *, timeout_s: float | None = None) -> ann_pb2.GetServingStatusResponse:
        """Returns which bundles the replica that answers has open, and how they are searched."""
        return self._call(next(self._stubs).GetServingStatus, ann_pb2.GetServingStatusRequest(), timeout_s)


class AsyncAnnClient(AsyncClient):
    """Calls the ANN service from asyncio. Create and use it within one running event loop.

    Args:
        address: Its address, or those of its replicas.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        """Makes channels and stubs, once; they connect at the first call."""
        super().__init__(address, **options)
        self._stubs = itertools.cycle([ann_grpc.AnnServiceStub(channel) for channel in self._open()])

    async def search(
        self,
        searches: Sequence[Search],
        *,
        model_version: str = "",
        bundle_version: str = "",
        timeout_s: float | None = None,
    ) -> SearchAnswer:
        """Returns what `AnnClient.search` does."""
        request = to_request(searches, model_version, bundle_version)
        return to_answer(await self._call(next(self._stubs).SearchItems, request, timeout_s), len(searches))

    async def status(self, *, timeout_s: float | None = None) -> ann_pb2.GetServingStatusResponse:
        """Returns what `AnnClient.status` does."""
        return await self._call(next(self._stubs).GetServingStatus, ann_pb2.GetServingStatusRequest(), timeout_s)


def to_searches(embeddings: Embeddings, asked: Sequence[Search]) -> list[Search]:
    """Returns each of the searches asked with the embedding of its query.

    Raises:
        ServerError: If there are not as many queries embedded as searches asked.
    """
    made = len(embeddings.vectors)
    if made != len(asked):
        raise ServerError(f"the query tower made {made} embeddings of {len(asked)} queries; see its log")
    return [replace(search, embedding=each) for search, each in zip(asked, embeddings.vectors, strict=True)]


def to_request(searches: Sequence[Search], model_version: str, bundle_version: str) -> ann_pb2.SearchItemsRequest:
    """Returns the request for `searches`.

    Raises:
        InvalidRequest: If there are no searches, or one has a target or text too many or too few, or a value of
            another type.
    """
    if not searches:
        raise InvalidRequest.in_field("searches", "is empty; send at least one")
    request = ann_pb2.SearchItemsRequest(model_version=model_version, bundle_version=bundle_version)
    for position, search in enumerate(searches):
        _add_search(request, search, f"searches[{position}]")
    return request


def to_answer(response: ann_pb2.SearchItemsResponse, search_count: int) -> SearchAnswer:
    """Returns the retrievals of a response.

    Raises:
        ServerError: If there is not one for each search, or its arrays differ in length.
    """
    if len(response.results) != search_count:
        raise ServerError(
            f"the ANN service answered {search_count} searches with {len(response.results)} results; see its log"
        )
    model_version, bundle_version = response.model_version, response.bundle_version
    retrievals = tuple(_to_retrieval(result, model_version, bundle_version) for result in response.results)
    return SearchAnswer(retrievals, model_version, bundle_version, response.newest_model_version)


def _add_search(request: ann_pb2.SearchItemsRequest, search: Search, path: str) -> None:
    if not isinstance(search.ranking, str) or search.ranking not in _RANKINGS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest.in_field(f"{path}.ranking", f"is {search.ranking!r}, expected {', '.join(_RANKINGS)}")
    targets = [name for name in ("embedding", "similar_to") if getattr(search, name) is not None]
    if search.ranking == "lexical":
        if targets:
            raise InvalidRequest.in_field(path, 'takes no target where ranking is "lexical"; "fused" takes both')
    elif len(targets) != 1:
        raise InvalidRequest.in_field(path, "takes an embedding or items to be similar to: one of the two")
    if bool(search.text) == (search.ranking == "embedding"):
        fault = "is set but does not rank" if search.text else f"is empty, and ranking is {search.ranking!r}"
        raise InvalidRequest.in_field(f"{path}.text", f'{fault}; give a text with ranking "lexical" or "fused"')
    if isinstance(search.k, bool) or not hasattr(search.k, "__index__") or operator.index(search.k) < 1:
        raise InvalidRequest.in_field(f"{path}.k", f"has to be a whole number of at least 1, got {search.k!r}")
    fields: dict[str, Any] = {
        "k": search.k,
        "filter": search.filter,
        "exclude_item_ids": _listed(search.exclude),
        "min_score": search.min_score,
        "exact": search.exact,
        "search_budget": search.search_budget,
        "return_attributes": _listed(search.return_attributes),
        "text": search.text,
        "ranking": _RANKINGS[search.ranking],
        "fusion_constant": search.fusion_constant,
    }
    at_fault = path
    try:
        added = request.searches.add(**fields)
        at_fault = ".".join([path, *targets])
        # In place: messages of their own would have to be copied.
        if search.embedding is not None:
            _set_values(added.embedding, search.embedding)
        if search.similar_to is not None:
            _set_values(added.similar_to, _listed(search.similar_to))
    except (TypeError, ValueError) as error:
        # What protobuf says of a value that does not fit its field; of which, it often does not say.
        name = next((name for name, value in fields.items() if not _fits(name, value)), "")
        fault = _TAKES.get(name, "a value has a wrong type or size")
        raise InvalidRequest.in_field(f"{path}.{name}" if name else at_fault, f"{fault}: {error}") from error


def _fits(name: str, value: object) -> bool:
    try:
        ann_pb2.Search(**{name: value})  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return True


def _set_values(message: ann_pb2.Embedding | ann_pb2.ItemIds, values: Sequence[float] | Sequence[str]) -> None:
    message.SetInParent()  # where there are none, the service says so
    message.values.extend(values)  # pyright: ignore[reportArgumentType]


def _listed(values: str | Sequence[str]) -> Sequence[str]:
    # Protobuf would take a string for a list of one-letter ids.
    return [values] if isinstance(values, str) else values


# A slice makes a list of a repeated field in one step; to go through the field takes several times as long.
def _to_retrieval(result: ann_pb2.SearchResult, model_version: str, bundle_version: str) -> Retrieval:
    item_ids, scores = tuple(result.item_ids[:]), tuple(result.scores[:])
    attributes = {column.name: _to_column(column, len(item_ids)) for column in result.attributes}
    if len(scores) != len(item_ids):
        raise ServerError(f"the ANN service sent {len(scores)} scores for {len(item_ids)} items; see its log")
    return Retrieval(item_ids, scores, attributes, model_version, bundle_version)


def _to_column(column: ann_pb2.AttributeColumn, item_count: int) -> tuple[AttributeValue, ...]:
    kind = column.WhichOneof("values")
    values: list[AttributeValue] = []
    if kind == "strings":
        values += column.strings.values[:]
    elif kind == "ints":
        values += column.ints.values[:]
    elif kind == "floats":
        values += column.floats.values[:]
    elif kind == "string_lists":
        values += [tuple(texts.values) for texts in column.string_lists.values]
    if len(values) != item_count or not all(0 <= position < item_count for position in column.missing):
        raise ServerError(f"the ANN service sent a column {column.name!r} that does not fit {item_count} items")
    for position in column.missing:
        values[position] = None
    return tuple(values)
