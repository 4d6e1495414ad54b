"""Retrieval in one call, over both services: features to ranked items."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from two_tower_client import ann, query_tower
from two_tower_client.ann import AnnClient
from two_tower_client.errors import TwoTowerError
from two_tower_client.features import Features
from two_tower_client.filters import Filter
from two_tower_client.model_agreement import Embed, Pin
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.reranking import RerankingOptions
from two_tower_client.results import Retrieval
from two_tower_client.retrieve_request import Fallback, RetrieveRequest, make_searches, to_texts, to_user_ids
from two_tower_client.rpc.call import check_timeout
from two_tower_client.rpc.channel import Address
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.search import Search, SearchOptions


class Retriever:
    """Retrieves items with the query tower service and the ANN service. Threads may share a retriever.

    A retrieve makes one EmbedQueries and one SearchItems call. While a new model is rolled out it may need further
    calls; see `two_tower_client.model_agreement`.

    Args:
        query_tower: Address of the query tower service, or of each of its replicas.
        ann: Address of the ANN service, or of each of its replicas.
        **options: See `ConnectionOptions`. `timeout_s` bounds a whole retrieve, with all its calls and retries.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.

    Example:
        >>> with Retriever(query_tower="localhost:50051", ann="localhost:50052") as retriever:
        ...     for hit in retriever.retrieve({"age": 24, "history": ["50", "181"]}, k=2):
        ...         print(hit.item_id, round(hit.score, 2))
        east 0.91
        northeast 0.87
    """

    def __init__(
        self,
        query_tower: Address = query_tower.DEFAULT_ADDRESS,
        ann: Address = ann.DEFAULT_ADDRESS,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._timeout_s = check_timeout(options.get("timeout_s", 1.0))
        self.query_tower = QueryTowerClient(query_tower, **options)
        self.ann = AnnClient(ann, **options)
        # Threads read and replace this reference to a frozen value without a lock: the pin of any thread is valid.
        self._pin = Pin()

    def retrieve(
        self,
        features: Features,
        k: int = 10,
        *,
        user_id: str = "",
        exclude_history: bool = False,
        text: str = "",
        fallback: Fallback | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns the `k` best items for a query, best first.

        Args:
            features: The features of the user and of the request, by name; None means missing. They are ignored with
                `ranking="lexical"`, which does not call the query tower service.
            k: Number of items to return, at least 1.
            user_id: Id of the user whose stored profile and history are added to the features. Features that are given
                win, one by one. `Retrieval.stored_features` says what the feature store did; if it is away, the query
                goes on with the given features. Default: nothing is looked up.
            exclude_history: Whether to leave out the items of the history: those given in `features`, otherwise all
                that are stored. It has no effect with `ranking="lexical"`, nor on a fallback.
            text: Query text for ranking "lexical" or "fused". If the model reads the text too, pass it in `features`
                as well.
            fallback: "popular": if the query tower service cannot be reached, is overloaded, has no bundle, needs more
                than four fifths of the timeout, or shares no model with the ANN service, the result is the most popular
                items of the live bundle, with the same `k`, filter, exclusions, attributes, diversity and facets.
                `Retrieval.is_fallback` and `fallback_reason` say so. Other errors are raised. Default: errors are
                always raised.
            timeout_s: Seconds that the whole retrieve may take. Default: the timeout of the retriever.
            request_id: Request id, sent with every call of the retrieve as `x-request-id`: 1 to 128 printable ASCII
                characters without blanks. Default: a random one. Errors name it.
            user: Key of the user, sent with every call of the retrieve as `two-tower-user`: 1 to 128 printable ASCII
                characters without blanks. A gateway that compares two models answers all calls of a user with one of
                them. Default: none.
            **options: See `SearchOptions`.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        return self.retrieve_batch(
            [features],
            k,
            user_ids=to_user_ids(user_id),
            exclude_history=exclude_history,
            texts=to_texts(text),
            fallback=fallback,
            timeout_s=timeout_s,
            request_id=request_id,
            user=user,
            **options,
        )[0]

    def retrieve_batch(
        self,
        queries: Sequence[Features],
        k: int = 10,
        *,
        user_ids: Sequence[str] = (),
        exclude_history: bool = False,
        texts: Sequence[str] = (),
        fallback: Fallback | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        **options: Unpack[SearchOptions],
    ) -> list[Retrieval]:
        """Returns the `k` best items for each query, in order, with one call to each service for the whole batch.

        Args:
            queries: The features of each query, at least one query.
            k: Number of items to return for each query, at least 1.
            user_ids: Id of the user of each query, "" for none; see `retrieve`. Default: no users.
            exclude_history: Whether to leave out the items of the history of each query; see `retrieve`.
            texts: Text of each query for ranking "lexical" or "fused". Default: none.
            fallback: What to return if the queries cannot be embedded; see `retrieve`.
            timeout_s: Seconds that the whole batch may take. Default: the timeout of the retriever.
            request_id: Request id; see `retrieve`.
            user: Key of the user; see `retrieve`.
            **options: See `SearchOptions`. They apply to all queries.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        timeout_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        searches = make_searches(len(queries), texts, Search(k=k, **options))
        if options.get("ranking") == "lexical":
            answer = self.ann.search(searches, timeout_s=timeout_s, request_id=request_id, user=user)
            return list(answer.retrievals)
        request = RetrieveRequest(
            self._pin, searches, timeout_s, request_id, fallback, user, exclude_history=exclude_history
        )
        while (step := request.step) is not None:
            try:
                model, call = step.model_version, request.call_options()
                if isinstance(step, Embed):
                    answer = self.query_tower.embed(
                        queries, model, user_ids=user_ids, return_histories=exclude_history, **call
                    )
                else:
                    answer = self.ann.search(request.searches(), model_version=model, **call)
            except TwoTowerError as error:
                if not request.recovers(error):
                    raise
            else:
                request.advance(answer)
        self._pin = request.pin
        return request.retrievals

    def similar_to(
        self,
        item_ids: str | Sequence[str],
        k: int = 10,
        *,
        text: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns the `k` items nearest to an item, or to the mean of several items, without these items.

        Args:
            item_ids: The id of one item, or of 1 to 1,000 items.
            k: Number of items to return, at least 1.
            text: Query text for ranking "fused".
            timeout_s: Seconds that the call may take. Default: the timeout of the retriever.
            request_id: Request id; see `retrieve`.
            user: Key of the user; see `retrieve`.
            **options: See `SearchOptions`.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        search = Search(similar_to=item_ids, text=text, k=k, **options)
        return self.ann.search([search], timeout_s=timeout_s, request_id=request_id, user=user).retrievals[0]

    def popular(
        self,
        k: int = 10,
        *,
        exclude: Sequence[str] = (),
        filter: Filter | None = None,
        return_attributes: Sequence[str] = (),
        timeout_s: float | None = None,
        request_id: str = "",
        user: str = "",
        **options: Unpack[RerankingOptions],
    ) -> Retrieval:
        """Returns the `k` most popular items of the live bundle: those with the most training events, most first.

        Args:
            k: Number of items to return, at least 1.
            exclude: See `SearchOptions`, as for the next two.
            filter: Condition that the items have to match.
            return_attributes: Names of item attributes to return.
            timeout_s: Seconds that the call may take. Default: the timeout of the retriever.
            request_id: Request id; see `retrieve`.
            user: Key of the user; see `retrieve`.
            **options: See `RerankingOptions`.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        search = Search(
            popular=True, k=k, exclude=exclude, filter=filter, return_attributes=return_attributes, **options
        )
        return self.ann.search([search], timeout_s=timeout_s, request_id=request_id, user=user).retrievals[0]

    def close(self) -> None:
        """Closes the channels to both services and cancels the calls in flight."""
        self.query_tower.close()
        self.ann.close()

    def __enter__(self) -> Self:
        """Returns the retriever."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        self.close()
