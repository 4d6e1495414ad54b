"""Clients of the ANN service: embeddings, item ids or texts to ranked items."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Unpack

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.results import AttributeValue, FacetCounts, Retrieval, SearchAnswer
from two_tower_client.rpc.channel import Address
from two_tower_client.rpc.line import Kind
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.rpc.service_client import AsyncServiceClient, ServiceClient, unread
from two_tower_client.search import Search, add_search

DEFAULT_ADDRESS = "localhost:50052"
_SEARCH = "/two_tower.ann.v1.AnnService/SearchItems"
_K_MAX = 1000
"""Most items of a search that shares a call."""


class AnnClient(ServiceClient):
    """Calls the ANN service. Threads may share a client.

    Args:
        address: Address of the service, or of each of its replicas. The channels connect at the first call.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        super().__init__(address, **options)
        self._stubs = itertools.cycle([ann_grpc.AnnServiceStub(channel) for channel in self._open()])
        self._shared = self._share(_SEARCH, ann_pb2.SearchItemsResponse.FromString, check_count)

    def search(
        self,
        searches: Sequence[Search],
        *,
        model_version: str = "",
        bundle_version: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        wait: bool = True,
        share: bool | None = None,
    ) -> SearchAnswer:
        """Returns one retrieval for each search, in order, all from one bundle.

        Args:
            searches: Searches to run, at least one.
            model_version: Model of the embeddings. Required if a search has an embedding.
            bundle_version: Bundle to search, for instance while paging. Default: the newest open bundle of the model.
            timeout_s: Seconds that the call may take. Default: the timeout of the client.
            request_id: Request id, sent as `x-request-id`: 1 to 128 printable ASCII characters without blanks. Default:
                a random one.
            user: Key of the user, sent as `two-tower-user`, in the same form; see `Retriever.retrieve`. Default: none.
            wait: Whether to wait, as long as the timeout allows, while no replica can be reached, for instance because
                the only one restarts. Default: True.
            share: Whether a call of one search may be shared with other threads; see `ConnectionOptions.coalesce`.
                Default: if `request_id` is empty.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        request = to_request(searches)
        if _is_light(searches) and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version, bundle_version), wait, _traits(searches[0]))
            return to_one(*self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version, request.bundle_version = model_version, bundle_version
        return self._call(
            next(self._stubs).SearchItems,
            request,
            lambda response: to_answer(response, len(searches)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    def status(self, *, timeout_s: float | None = None) -> ann_pb2.GetServingStatusResponse:
        """Returns the open bundles of the replica that answers, and how they are searched."""
        return self._call(
            next(self._stubs).GetServingStatus, ann_pb2.GetServingStatusRequest(), unread, timeout_s, may_wait=False
        )


class AsyncAnnClient(AsyncServiceClient):
    """Calls the ANN service from asyncio. Create and use a client within one running event loop.

    Args:
        address: Address of the service, or of each of its replicas. The channels connect at the first call.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        super().__init__(address, **options)
        self._stubs = itertools.cycle([ann_grpc.AnnServiceStub(channel) for channel in self._open()])
        self._shared = self._share(_SEARCH, ann_pb2.SearchItemsResponse.FromString, check_count)

    async def search(
        self,
        searches: Sequence[Search],
        *,
        model_version: str = "",
        bundle_version: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        wait: bool = True,
        share: bool | None = None,
    ) -> SearchAnswer:
        """Returns one retrieval for each search; see `AnnClient.search`."""
        request = to_request(searches)
        if _is_light(searches) and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version, bundle_version), wait, _traits(searches[0]))
            return to_one(*await self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version, request.bundle_version = model_version, bundle_version
        return await self._call(
            next(self._stubs).SearchItems,
            request,
            lambda response: to_answer(response, len(searches)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    async def status(self, *, timeout_s: float | None = None) -> ann_pb2.GetServingStatusResponse:
        """Returns the open bundles of the replica that answers, and how they are searched."""
        return await self._call(
            next(self._stubs).GetServingStatus, ann_pb2.GetServingStatusRequest(), unread, timeout_s, may_wait=False
        )


def to_request(
    searches: Sequence[Search], model_version: str = "", bundle_version: str = ""
) -> ann_pb2.SearchItemsRequest:
    """Returns the SearchItems request.

    Raises:
        InvalidRequest: If there are no searches, or one of them is invalid.
    """
    if not searches:
        raise InvalidRequest.in_field("searches", "is empty; send at least one")
    request = ann_pb2.SearchItemsRequest(model_version=model_version, bundle_version=bundle_version)
    for position, search in enumerate(searches):
        add_search(request, search, f"searches[{position}]")
    return request


def _is_light(searches: Sequence[Search]) -> bool:
    """Returns whether there is one search, which costs about as much as others."""
    if len(searches) != 1:
        return False
    (search,) = searches
    reranks = search.candidates_limit or search.boosts or search.diversify or search.facets
    return not (search.exact or search.search_budget or reranks) and search.k <= _K_MAX


def _traits(search: Search) -> tuple[object, ...]:
    """Returns in what searches differ that may not share a call: in what they need of a bundle, or in their cost."""
    return search.ranking, search.similar_to is None, search.popular, search.filter is None


@functools.lru_cache(maxsize=16)
def _to_header(model_version: str, bundle_version: str) -> bytes:
    """Returns the bytes of a request without its searches."""
    return ann_pb2.SearchItemsRequest(model_version=model_version, bundle_version=bundle_version).SerializeToString()


def to_answer(response: ann_pb2.SearchItemsResponse, search_count: int) -> SearchAnswer:
    """Returns the retrievals of a SearchItems response.

    Raises:
        ServerError: If the number of results differs from the number of searches, or the arrays of a result differ in
            length.
    """
    check_count(response, search_count)
    return _to_answer(response, response.results)


def to_one(response: ann_pb2.SearchItemsResponse, position: int) -> SearchAnswer:
    """Returns the retrieval at a position of a response, as if it were alone in it.

    Raises:
        ServerError: If the arrays of the result differ in length.
    """
    return _to_answer(response, [response.results[position]])


def check_count(response: ann_pb2.SearchItemsResponse, search_count: int) -> ann_pb2.SearchItemsResponse:
    """Returns the response.

    Raises:
        ServerError: If the number of results differs from the number of searches.
    """
    if len(response.results) != search_count:
        raise ServerError(
            f"the ANN service answered {search_count} searches with {len(response.results)} results; see its log"
        )
    return response


def _to_answer(response: ann_pb2.SearchItemsResponse, results: Iterable[ann_pb2.SearchResult]) -> SearchAnswer:
    model_version, bundle_version = response.model_version, response.bundle_version
    coverage = response.coverage if response.HasField("coverage") else 1.0  # of a service older than the field
    retrievals = tuple(_to_retrieval(result, model_version, bundle_version, coverage) for result in results)
    return SearchAnswer(retrievals, model_version, bundle_version, response.newest_model_version, coverage)


# A slice copies a repeated field into a list in one step. Iterating over the field takes several times as long.
def _to_retrieval(result: ann_pb2.SearchResult, model_version: str, bundle_version: str, coverage: float) -> Retrieval:
    item_ids, scores = tuple(result.item_ids[:]), tuple(result.scores[:])
    attributes = {column.name: _to_column(column, len(item_ids)) for column in result.attributes}
    if len(scores) != len(item_ids):
        raise ServerError(f"the ANN service sent {len(scores)} scores for {len(item_ids)} items; see its log")
    if not result.candidate_count and not result.facets:
        return Retrieval(item_ids, scores, attributes, model_version, bundle_version, coverage=coverage)
    boosts, marginal_relevances = tuple(result.boosts[:]), tuple(result.marginal_relevances[:])
    if any(values and len(values) != len(item_ids) for values in (boosts, marginal_relevances)):
        raise ServerError(f"the ANN service sent boosts that do not fit {len(item_ids)} items; see its log")
    return Retrieval(
        item_ids,
        scores,
        attributes,
        model_version,
        bundle_version,
        coverage=coverage,
        boosts=boosts,
        marginal_relevances=marginal_relevances,
        facets=_to_facets(result),
        candidate_count=result.candidate_count,
        shortened_by_group_limits=result.shortened_by_group_limits,
    )


def _to_column(column: ann_pb2.AttributeColumn, item_count: int) -> tuple[AttributeValue, ...]:
    """Returns [item_count] values of an attribute, None for an item without a value."""
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


def _to_facets(result: ann_pb2.SearchResult) -> dict[str, FacetCounts]:
    """Returns the counts of a result, by attribute."""
    return {
        each.attribute: FacetCounts(
            {
                getattr(value.value, value.value.WhichOneof("kind") or "string_value"): value.count
                for value in each.values
            },
            each.distinct_count,
            each.missing_count,
        )
        for each in result.facets
    }
