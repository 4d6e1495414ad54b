"""Clients of the query tower service: features to embeddings."""

import functools
import itertools
from collections.abc import Sequence
from typing import Unpack

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc
from two_tower_client.errors import InvalidRequest, ServerError
from two_tower_client.events import (
    Event,
    ForgottenUser,
    RecordedEvents,
    to_forgotten,
    to_record_requests,
    to_recorded,
    to_stored_features,
)
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
        user_ids: Sequence[str] = (),
        return_histories: bool = False,
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
            user_ids: Id of the user of each query, whose stored features are added to those of the query; "" for none.
                Features of the query win. Default: no users.
            return_histories: Whether to return the history of each query.
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
        request = to_request(queries, user_ids=user_ids)
        if len(queries) == 1 and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version, return_histories), wait)
            return to_embedding(*self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version, request.return_histories = model_version, return_histories
        return self._call(
            next(self._stubs).EmbedQueries,
            request,
            lambda response: to_embeddings(response, len(queries)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    def record_events(
        self, events: Sequence[Event], *, timeout_s: float | None = None, request_id: str = ""
    ) -> RecordedEvents:
        """Adds events to the stored histories of users. The next query that names the user finds them.

        An event that is there already is not added again, so after an error the same events can be recorded again.

        Args:
            events: Events of one or several users, at least one, in any order. Each 1,000 are a call.
            timeout_s: Seconds that each call may take. Default: the timeout of the client.
            request_id: Request id; see `embed`.

        Raises:
            NoFeatureStore: If the service runs without a feature store.
            Unavailable: If the feature store is away, slow or full, even after retries.
            TwoTowerError: See `two_tower_client.errors`.
        """
        recorded = RecordedEvents()
        for request in to_record_requests(events):
            method = next(self._stubs).RecordEvents
            recorded += self._call(method, request, to_recorded, timeout_s, request_id, hedged=False)
        return recorded

    def forget_user(self, user_id: str, *, timeout_s: float | None = None, request_id: str = "") -> ForgottenUser:
        """Deletes everything that the feature store holds of a user, and returns how much that was.

        Args:
            user_id: Id of the user.
            timeout_s: Seconds that the call may take. Default: the timeout of the client.
            request_id: Request id; see `embed`.

        Raises:
            NoFeatureStore: If the service runs without a feature store.
            Unavailable: If the feature store is away or slow, even after retries.
            TwoTowerError: See `two_tower_client.errors`.
        """
        method, request = next(self._stubs).ForgetUser, to_forget_request(user_id)
        return self._call(method, request, to_forgotten, timeout_s, request_id, hedged=False)

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
        user_ids: Sequence[str] = (),
        return_histories: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        wait: bool = True,
        share: bool | None = None,
    ) -> Embeddings:
        """Returns one embedding for each query; see `QueryTowerClient.embed`."""
        request = to_request(queries, user_ids=user_ids)
        if len(queries) == 1 and (body := self._to_share(request, request_id, user, share)):
            kind = Kind(_to_header(model_version, return_histories), wait)
            return to_embedding(*await self._shared.ask(kind, body, *self._check_arguments(request_id, timeout_s)))
        request.model_version, request.return_histories = model_version, return_histories
        return await self._call(
            next(self._stubs).EmbedQueries,
            request,
            lambda response: to_embeddings(response, len(queries)),
            timeout_s,
            request_id,
            user,
            may_wait=wait,
        )

    async def record_events(
        self, events: Sequence[Event], *, timeout_s: float | None = None, request_id: str = ""
    ) -> RecordedEvents:
        """Adds events to the stored histories of users; see `QueryTowerClient.record_events`."""
        recorded = RecordedEvents()
        for request in to_record_requests(events):
            method = next(self._stubs).RecordEvents
            recorded += await self._call(method, request, to_recorded, timeout_s, request_id, hedged=False)
        return recorded

    async def forget_user(self, user_id: str, *, timeout_s: float | None = None, request_id: str = "") -> ForgottenUser:
        """Deletes everything that is stored of a user; see `QueryTowerClient.forget_user`."""
        method, request = next(self._stubs).ForgetUser, to_forget_request(user_id)
        return await self._call(method, request, to_forgotten, timeout_s, request_id, hedged=False)

    async def status(self, *, timeout_s: float | None = None) -> query_pb2.GetServingStatusResponse:
        """Returns the open models of the replica that answers, and the features that they read."""
        return await self._call(
            next(self._stubs).GetServingStatus, query_pb2.GetServingStatusRequest(), unread, timeout_s, may_wait=False
        )


def to_request(
    queries: Sequence[Features], model_version: str = "", user_ids: Sequence[str] = ()
) -> query_pb2.EmbedQueriesRequest:
    """Returns the EmbedQueries request.

    Raises:
        InvalidRequest: If there are no queries, the type of a value is not allowed for a feature, or there are users,
            but not one for each query.
    """
    if not queries:
        raise InvalidRequest.in_field("queries", "is empty; send at least one")
    request = query_pb2.EmbedQueriesRequest(model_version=model_version)
    for position, features in enumerate(queries):
        write_query(request.queries.add(), features, position)
    if user_ids:
        if isinstance(user_ids, str) or len(user_ids) != len(queries):
            given = "a string" if isinstance(user_ids, str) else f"{len(user_ids)} ids"
            raise InvalidRequest.in_field("user_ids", f"takes a list of one for each of {len(queries)}, got {given}")
        for query, user_id in zip(request.queries, user_ids, strict=True):
            try:
                query.user_id = user_id
            except (TypeError, ValueError) as error:
                raise InvalidRequest.in_field(
                    "user_ids", f"takes ids, which are strings, got {user_id!r:.80}"
                ) from error
    return request


def to_forget_request(user_id: str) -> query_pb2.ForgetUserRequest:
    """Returns the ForgetUser request.

    Raises:
        InvalidRequest: If the id is no string that can be sent.
    """
    try:
        return query_pb2.ForgetUserRequest(user_id=user_id)
    except (TypeError, ValueError) as error:
        raise InvalidRequest.in_field("user_id", f"takes an id, which is a string, got {user_id!r:.80}") from error


@functools.lru_cache(maxsize=16)
def _to_header(model_version: str, return_histories: bool) -> bytes:
    """Returns the bytes of a request without its queries."""
    request = query_pb2.EmbedQueriesRequest(model_version=model_version, return_histories=return_histories)
    return request.SerializeToString()


def check_count(response: query_pb2.EmbedQueriesResponse, query_count: int) -> query_pb2.EmbedQueriesResponse:
    """Returns the response.

    Raises:
        ServerError: If the number of embeddings differs from the number of queries.
    """
    counts = (len(response.stored_features), len(response.histories))
    if len(response.embeddings) == query_count and any(count not in (0, query_count) for count in counts):
        raise ServerError(f"the query tower answered {query_count} queries with users for {counts}; see its log")
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
    stored_features = to_stored_features(response.stored_features) if response.stored_features else ()
    histories = tuple(tuple(history.item_ids[:]) for history in response.histories)
    return Embeddings(vectors, response.model_version, tuple(response.unknown_values), stored_features, histories)


def to_embedding(response: query_pb2.EmbedQueriesResponse, position: int) -> Embeddings:
    """Returns the embedding at a position of a response, as if it were alone in it."""
    vector = tuple(response.embeddings[position].values[:])
    unknown_values = response.unknown_values[position : position + 1]
    stored = response.stored_features[position : position + 1]
    histories = response.histories[position : position + 1]
    return Embeddings(
        (vector,),
        response.model_version,
        tuple(unknown_values) if any(unknown_values) else (),
        to_stored_features(stored) if any(stored) else (),
        tuple(tuple(history.item_ids[:]) for history in histories),
    )
