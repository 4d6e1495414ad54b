"""Clients of the query tower service: features -> embeddings."""

import itertools
from collections.abc import Sequence
from typing import Unpack

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc
from two_tower_client.channel import Address
from two_tower_client.client import AsyncClient, Client, ConnectionOptions
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.features import Features, write_query
from two_tower_client.results import Embeddings

DEFAULT_ADDRESS = "localhost:50051"


class QueryTowerClient(Client):
    """Calls the query tower service. Threads may share one.

    Args:
        address: Its address, or those of its replicas.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        """Makes channels and stubs, once; they connect at the first call."""
        super().__init__(address, **options)
        self._stubs = itertools.cycle([query_grpc.QueryTowerServiceStub(channel) for channel in self._open()])

    def embed(
        self, queries: Sequence[Features], model_version: str = "", *, timeout_s: float | None = None
    ) -> Embeddings:
        """Returns one embedding for each of `queries`, in their order.

        Args:
            queries: The features of each.
            model_version: The model to use. Default: that of the live bundle.
            timeout_s: Seconds the call may take. Default: that of the client.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        request = to_request(queries, model_version)
        return to_embeddings(self._call(next(self._stubs).EmbedQueries, request, timeout_s), len(queries))

    def status(self, *, timeout_s: float | None = None) -> query_pb2.GetServingStatusResponse:
        """Returns what the replica that answers serves, and the features that a query may carry."""
        return self._call(next(self._stubs).GetServingStatus, query_pb2.GetServingStatusRequest(), timeout_s)


class AsyncQueryTowerClient(AsyncClient):
    """Calls the query tower service from asyncio. Create and use it within one running event loop.

    Args:
        address: Its address, or those of its replicas.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(self, address: Address = DEFAULT_ADDRESS, **options: Unpack[ConnectionOptions]) -> None:
        """Makes channels and stubs, once; they connect at the first call."""
        super().__init__(address, **options)
        self._stubs = itertools.cycle([query_grpc.QueryTowerServiceStub(channel) for channel in self._open()])

    async def embed(
        self, queries: Sequence[Features], model_version: str = "", *, timeout_s: float | None = None
    ) -> Embeddings:
        """Returns what `QueryTowerClient.embed` does."""
        request = to_request(queries, model_version)
        return to_embeddings(await self._call(next(self._stubs).EmbedQueries, request, timeout_s), len(queries))

    async def status(self, *, timeout_s: float | None = None) -> query_pb2.GetServingStatusResponse:
        """Returns what `QueryTowerClient.status` does."""
        return await self._call(next(self._stubs).GetServingStatus, query_pb2.GetServingStatusRequest(), timeout_s)


def to_request(queries: Sequence[Features], model_version: str) -> query_pb2.EmbedQueriesRequest:
    """Returns the request for the embeddings of `queries`.

    Raises:
        InvalidRequest: If there are no queries, or a feature has a type that none can have.
    """
    if not queries:
        raise InvalidRequest.in_field("queries", "is empty; send at least one")
    request = query_pb2.EmbedQueriesRequest(model_version=model_version)
    for position, features in enumerate(queries):
        write_query(request.queries.add(), features, position)
    return request


def to_embeddings(response: query_pb2.EmbedQueriesResponse, query_count: int) -> Embeddings:
    """Returns the embeddings of a response.

    Raises:
        ServerError: If there is not one for each query.
    """
    vectors = tuple(tuple(embedding.values[:]) for embedding in response.embeddings)
    if len(vectors) != query_count:
        raise ServerError(
            f"the query tower answered {query_count} queries with {len(vectors)} embeddings, expected one for each; "
            "see its log"
        )
    return Embeddings(vectors, response.model_version)
