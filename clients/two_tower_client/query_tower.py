"""Clients of the query tower service: features to embeddings."""

import functools
import itertools
from collections.abc import Sequence
from typing import Unpack

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.features import Features, write_query
from two_tower_client.results import Embeddings
from two_tower_client.rpc.channel import Address
from two_tower_client.rpc.line import Kind
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.rpc.service_client import AsyncServiceClient, ServiceClient, unread

DEFAULT_ADDRESS = "localhost:50051"
_EMBED = "/two_tower.query.v1.QueryTowerService/EmbedQueries"


class QueryTowerClient(ServiceClient):
    """Calls the query tower service. Threads may share a client.

    Args:
        address: Address of the service, or of each of its replicas. The channels connect at the first call.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        super().__init__(address, **options)
        self._stubs = itertools.cycle([query_grpc.QueryTowerServiceStub(channel) for channel in self._open()])
        self._shared = self._share(_EMBED, query_pb2.EmbedQueriesResponse.FromString, check_count)

    def embed(
        self,
        queries: Sequence[Features],
        model_version: str = "",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        wait: bool = True,
        share: bool | None = None,
    ) -> Embeddings:
        """Returns one embedding for each query, in order.

        Args:
            queries: The features of each query, at least one query.
            model_version: Model to embed with. Default: the model of the live bundle.
            timeout_s: Seconds that the call may take. Default: the timeout of the client.
            request_id: Request id, sent as `x-request-id`: 1 to 128 printable ASCII characters without blanks. Default:
                a random one.
            user: Key of the user, sent as `two-tower-user`, in the same form; see `Retriever.retrieve`. Default: none.
            wait: Whether to wait, as long as the timeout allows, while no replica can be reached, for instance because
                the only one restarts. Default: True.
            share: Whether a call of one query may be shared with other threads; see `ConnectionOptions.coalesce`.
                Default: if `request_id` is empty.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        request = to_request(queries)
        if len(queries) == 1 and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version), wait)
            return to_embedding(*self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version = model_version
        return self._call(
            next(self._stubs).EmbedQueries,
            request,
            lambda response: to_embeddings(response, len(queries)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    def status(self, *, timeout_s: float | None = None) -> query_pb2.GetServingStatusResponse:
        """Returns the open models of the replica that answers, and the features that they read."""
        return self._call(
            next(self._stubs).GetServingStatus, query_pb2.GetServingStatusRequest(), unread, timeout_s, may_wait=False
        )


class AsyncQueryTowerClient(AsyncServiceClient):
    """Calls the query tower service from asyncio. Create and use a client within one running event loop.

    Args:
        address: Address of the service, or of each of its replicas. The channels connect at the first call.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        super().__init__(address, **options)
        self._stubs = itertools.cycle([query_grpc.QueryTowerServiceStub(channel) for channel in self._open()])
        self._shared = self._share(_EMBED, query_pb2.EmbedQueriesResponse.FromString, check_count)

    async def embed(
        self,
        queries: Sequence[Features],
        model_version: str = "",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        wait: bool = True,
        share: bool | None = None,
    ) -> Embeddings:
        """Returns one embedding for each query; see `QueryTowerClient.embed`."""
        request = to_request(queries)
        if len(queries) == 1 and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version), wait)
            return to_embedding(*await self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version = model_version
        return await self._call(
            next(self._stubs).EmbedQueries,
            request,
            lambda response: to_embeddings(response, len(queries)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    async def status(self, *, timeout_s: float | None = None) -> query_pb2.GetServingStatusResponse:
        """Returns the open models of the replica that answers, and the features that they read."""
        return await self._call(
            next(self._stubs).GetServingStatus, query_pb2.GetServingStatusRequest(), unread, timeout_s, may_wait=False
        )


def to_request(queries: Sequence[Features], model_version: str = "") -> query_pb2.EmbedQueriesRequest:
    """Returns the EmbedQueries request.

    Raises:
        InvalidRequest: If there are no queries, or the type of a value is not allowed for a feature.
    """
    if not queries:
        raise InvalidRequest.in_field("queries", "is empty; send at least one")
    request = query_pb2.EmbedQueriesRequest(model_version=model_version)
    for position, features in enumerate(queries):
        write_query(request.queries.add(), features, position)
    return request


@functools.lru_cache(maxsize=16)
def _to_header(model_version: str) -> bytes:
    """Returns the bytes of a request without its queries."""
    return query_pb2.EmbedQueriesRequest(model_version=model_version).SerializeToString()


def check_count(response: query_pb2.EmbedQueriesResponse, query_count: int) -> query_pb2.EmbedQueriesResponse:
    """Returns the response.

    Raises:
        ServerError: If the number of embeddings differs from the number of queries.
    """
    if len(response.embeddings) != query_count:
        raise ServerError(
            f"the query tower answered {query_count} queries with {len(response.embeddings)} embeddings, expected one "
            "for each; see its log"
        )
    return response


def to_embeddings(response: query_pb2.EmbedQueriesResponse, query_count: int) -> Embeddings:
    """Returns the embeddings of an EmbedQueries response.

    Raises:
        ServerError: If the number of embeddings differs from the number of queries.
    """
    check_count(response, query_count)
    vectors = tuple(tuple(embedding.values[:]) for embedding in response.embeddings)
    return Embeddings(vectors, response.model_version, tuple(response.unknown_values))


def to_embedding(response: query_pb2.EmbedQueriesResponse, position: int) -> Embeddings:
    """Returns the embedding at a position of a response, as if it were alone in it."""
    vector = tuple(response.embeddings[position].values[:])
    unknown_values = response.unknown_values[position : position + 1]
    return Embeddings((vector,), response.model_version, tuple(unknown_values) if any(unknown_values) else ())
