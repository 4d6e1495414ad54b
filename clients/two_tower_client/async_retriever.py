"""The asyncio counterpart of `two_tower_client.retriever`."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

from two_tower_client import ann, query_tower
from two_tower_client.ann import AsyncAnnClient
from two_tower_client.errors import TwoTowerError
from two_tower_client.features import Features
from two_tower_client.filters import Filter
from two_tower_client.model_agreement import Embed, Pin
from two_tower_client.query_tower import AsyncQueryTowerClient
from two_tower_client.reranking import RerankingOptions
from two_tower_client.results import Retrieval
from two_tower_client.retrieve_request import Fallback, RetrieveRequest, make_searches, to_texts, to_user_ids
from two_tower_client.rpc.call import check_timeout
from two_tower_client.rpc.channel import Address
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.search import Search, SearchOptions


class AsyncRetriever:
    """The asyncio counterpart of `Retriever`. Create, use and close it within one running event loop.

    Tasks may share a retriever.

    Args:
        query_tower: Address of the query tower service, or of each of its replicas.
        ann: Address of the ANN service, or of each of its replicas.
        **options: See `ConnectionOptions`. `timeout_s` bounds a whole retrieve, with all its calls and retries.

    Raises:
        InvalidRequest: If an address, a file, the token or another option is invalid.
    """

    def __init__(
        self,
        query_tower: Address = query_tower.DEFAULT_ADDRESS,
        ann: Address = ann.DEFAULT_ADDRESS,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._timeout_s = check_timeout(options.get("timeout_s", 1.0))
        self.query_tower = AsyncQueryTowerClient(query_tower, **options)
        self.ann = AsyncAnnClient(ann, **options)
        self._pin = Pin()

    async def retrieve(
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
        """Returns the `k` best items for a query; see `Retriever.retrieve`."""
        retrievals = await self.retrieve_batch(
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
        )
        return retrievals[0]

    async def retrieve_batch(
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
        """Returns the `k` best items for each query; see `Retriever.retrieve_batch`."""
        timeout_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        searches = make_searches(len(queries), texts, Search(k=k, **options))
        if options.get("ranking") == "lexical":
            answer = await self.ann.search(searches, timeout_s=timeout_s, request_id=request_id, user=user)
            return list(answer.retrievals)
        request = RetrieveRequest(
            self._pin, searches, timeout_s, request_id, fallback, user, exclude_history=exclude_history
        )
        while (step := request.step) is not None:
            try:
                model, call = step.model_version, request.call_options()
                if isinstance(step, Embed):
                    answer = await self.query_tower.embed(
                        queries, model, user_ids=user_ids, return_histories=exclude_history, **call
                    )
                else:
                    answer = await self.ann.search(request.searches(), model_version=model, **call)
            except TwoTowerError as error:
                if not request.recovers(error):
                    raise
            else:
                request.advance(answer)
        self._pin = request.pin
        return request.retrievals

    async def similar_to(
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
        """Returns the `k` items nearest to an item or to the mean of several items; see `Retriever.similar_to`."""
        search = Search(similar_to=item_ids, text=text, k=k, **options)
        return (await self.ann.search([search], timeout_s=timeout_s, request_id=request_id, user=user)).retrievals[0]

    async def popular(
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
        """Returns the `k` most popular items of the live bundle; see `Retriever.popular`."""
        search = Search(
            popular=True, k=k, exclude=exclude, filter=filter, return_attributes=return_attributes, **options
        )
        return (await self.ann.search([search], timeout_s=timeout_s, request_id=request_id, user=user)).retrievals[0]

    async def close(self) -> None:
        """Closes the channels to both services and cancels the calls in flight."""
        await self.query_tower.close()
        await self.ann.close()

    async def __aenter__(self) -> Self:
        """Returns the retriever."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        await self.close()
