"""Retrieval in one call: features -> ranked items, over both services."""

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, Unpack

from two_tower_client import ann, query_tower
from two_tower_client.ann import AnnClient, AsyncAnnClient, Search, SearchOptions
from two_tower_client.channel import Address
from two_tower_client.client import ConnectionOptions, check_timeout
from two_tower_client.errors import DeadlineExceeded, InvalidRequest, ModelNotServed
from two_tower_client.features import Features
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Searched, Step, exchange
from two_tower_client.query_tower import AsyncQueryTowerClient, QueryTowerClient
from two_tower_client.results import Embeddings, Retrieval, SearchAnswer


class Retriever:
    """Retrieves items for users, over the query tower service and the ANN service. Threads may share one.

    All is done by one EmbedQueries and one SearchItems, except while a new model rolls out: see `protocol`.

    Args:
        query_tower: Address of the query tower service, or those of its replicas.
        ann: Address of the ANN service, or those of its replicas.
        **options: See `ConnectionOptions`. `timeout_s` bounds a whole retrieve, retries included.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.

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
        """Makes the channels; they connect at the first call."""
        self._timeout_s = check_timeout(options.get("timeout_s", 1.0))
        self.query_tower = QueryTowerClient(query_tower, **options)
        self.ann = AnnClient(ann, **options)
        # One reference to a frozen value: threads read and replace it without a lock, and any of theirs is as good.
        self._pin = Pin()

    def retrieve(
        self,
        features: Features,
        k: int = 10,
        *,
        text: str = "",
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns the `k` items nearest to a query, best first.

        Args:
            features: What is known of the user and the moment, by feature name; None means missing. With
                `ranking="lexical"` they are not looked at, and the query tower is not asked.
            k: How many items to return.
            text: What was typed, where `ranking` is "lexical" or "fused": its words rank the items. Where the query
                tower reads it too, it is one of `features` besides.
            timeout_s: Seconds that all may take. Default: that of the retriever.
            **options: See `SearchOptions`.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        return self.retrieve_batch([features], k, texts=_alone(text), timeout_s=timeout_s, **options)[0]

    def retrieve_batch(
        self,
        queries: Sequence[Features],
        k: int = 10,
        *,
        texts: Sequence[str] = (),
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Retrieval]:
        """Returns the `k` nearest items for each of `queries`, in their order; one call to each service for all.

        Args:
            queries: The features of each query.
            k: How many items to return for each.
            texts: What was typed, one for each of `queries`, where `ranking` is "lexical" or "fused".
            timeout_s: Seconds that all may take. Default: that of the retriever.
            **options: See `SearchOptions`; the same for all.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        deadline = _Deadline(self._timeout_s if timeout_s is None else check_timeout(timeout_s))
        asked = _searches(queries, texts, Search(k=k, **options))
        if options.get("ranking") == "lexical":
            return list(self.ann.search(asked, timeout_s=deadline.remaining_s()).retrievals)
        retrieve = _Retrieve(self._pin, asked)
        while (step := retrieve.step) is not None:
            try:
                if isinstance(step, Embed):
                    answer = self.query_tower.embed(queries, step.model_version, timeout_s=deadline.remaining_s())
                else:
                    answer = self.ann.search(
                        retrieve.searches(), model_version=step.model_version, timeout_s=deadline.remaining_s()
                    )
            except ModelNotServed as refusal:
                answer = refusal
            retrieve.advance(answer)
        self._pin = retrieve.pin
        return retrieve.retrievals

    def similar_to(
        self,
        item_ids: str | Sequence[str],
        k: int = 10,
        *,
        text: str = "",
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns the `k` items nearest to an item, or to the mean of several, without those themselves.

        Args:
            item_ids: The id of an item, or of up to 1,000.
            k: How many items to return.
            text: What was typed, where `ranking` is "fused".
            timeout_s: Seconds that all may take. Default: that of the retriever.
            **options: See `SearchOptions`.

        Raises:
            TwoTowerError: See `two_tower_client.errors`.
        """
        search = Search(similar_to=item_ids, text=text, k=k, **options)
        return self.ann.search([search], timeout_s=timeout_s).retrievals[0]

    def close(self) -> None:
        """Closes both channels."""
        self.query_tower.close()
        self.ann.close()

    def __enter__(self) -> Self:
        """Returns the retriever."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes both channels."""
        self.close()


class AsyncRetriever:
    """The same for asyncio. Create, use and close it within one running event loop; tasks may share it.

    Args:
        query_tower: Address of the query tower service, or those of its replicas.
        ann: Address of the ANN service, or those of its replicas.
        **options: See `ConnectionOptions`. `timeout_s` bounds a whole retrieve, retries included.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(
        self,
        query_tower: Address = query_tower.DEFAULT_ADDRESS,
        ann: Address = ann.DEFAULT_ADDRESS,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        """Makes the channels; they connect at the first call."""
        self._timeout_s = check_timeout(options.get("timeout_s", 1.0))
        self.query_tower = AsyncQueryTowerClient(query_tower, **options)
        self.ann = AsyncAnnClient(ann, **options)
        self._pin = Pin()

    async def retrieve(
        self,
        features: Features,
        k: int = 10,
        *,
        text: str = "",
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns what `Retriever.retrieve` does."""
        return (await self.retrieve_batch([features], k, texts=_alone(text), timeout_s=timeout_s, **options))[0]

    async def retrieve_batch(
        self,
        queries: Sequence[Features],
        k: int = 10,
        *,
        texts: Sequence[str] = (),
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[Retrieval]:
        """Returns what `Retriever.retrieve_batch` does."""
        deadline = _Deadline(self._timeout_s if timeout_s is None else check_timeout(timeout_s))
        asked = _searches(queries, texts, Search(k=k, **options))
        if options.get("ranking") == "lexical":
            return list((await self.ann.search(asked, timeout_s=deadline.remaining_s())).retrievals)
        retrieve = _Retrieve(self._pin, asked)
        while (step := retrieve.step) is not None:
            try:
                if isinstance(step, Embed):
                    answer = await self.query_tower.embed(queries, step.model_version, timeout_s=deadline.remaining_s())
                else:
                    answer = await self.ann.search(
                        retrieve.searches(), model_version=step.model_version, timeout_s=deadline.remaining_s()
                    )
            except ModelNotServed as refusal:
                answer = refusal
            retrieve.advance(answer)
        self._pin = retrieve.pin
        return retrieve.retrievals

    async def similar_to(
        self,
        item_ids: str | Sequence[str],
        k: int = 10,
        *,
        text: str = "",
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Retrieval:
        """Returns what `Retriever.similar_to` does."""
        search = Search(similar_to=item_ids, text=text, k=k, **options)
        return (await self.ann.search([search], timeout_s=timeout_s)).retrievals[0]

    async def close(self) -> None:
        """Closes both channels."""
        await self.query_tower.close()
        await self.ann.close()

    async def __aenter__(self) -> Self:
        """Returns the retriever."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes both channels."""
        await self.close()


def _alone(text: str) -> Sequence[str]:
    return (text,) if text else ()


def _searches(queries: Sequence[Features], texts: Sequence[str], search: Search) -> list[Search]:
    """Returns the search of each query, without its embedding."""
    if isinstance(texts, str) or (texts and len(texts) != len(queries)):
        found = "a string" if isinstance(texts, str) else f"{len(texts)} texts"
        raise InvalidRequest.in_field("texts", f"takes a list of one for each of {len(queries)} queries, got {found}")
    return [replace(search, text=text) for text in texts] if texts else [search] * len(queries)


class _Retrieve:
    """One retrieve under way: the protocol, and the payloads that its steps stand for.

    Attributes:
        step: What to do next; None once the answer is in.
        pin: Of the next request; set once the answer is in.
        retrievals: The answer, once it is in.
    """

    def __init__(self, pin: Pin, asked: Sequence[Search]) -> None:
        self.pin = pin
        self.retrievals = list[Retrieval]()
        self._asked = asked
        self._embeddings = Embeddings((), "")
        self._exchange = exchange(pin)
        self.step: Step | None = next(self._exchange)

    def searches(self) -> list[Search]:
        """Returns one search for each of the last queries embedded.

        Raises:
            ServerError: If there is not one embedding for each query.
        """
        return ann.to_searches(self._embeddings, self._asked)

    def advance(self, answer: Embeddings | SearchAnswer | ModelNotServed) -> None:
        """Takes the answer to `step` and sets the next one.

        Raises:
            ModelNotServed: From the last refusal, if no model was found that both services have.
        """
        if isinstance(answer, ModelNotServed):
            outcome: Outcome = NotServed(answer.model_versions)
        elif isinstance(answer, Embeddings):
            self._embeddings = answer
            outcome = Embedded(answer.model_version)
        else:
            self.retrievals = list(answer.retrievals)
            outcome = Searched(answer.model_version, answer.newest_model_version)
        try:
            self.step = self._exchange.send(outcome)
        except StopIteration as done:
            self.step, self.pin = None, done.value
        except ModelNotServed as disagreement:
            raise disagreement from (answer if isinstance(answer, ModelNotServed) else None)


class _Deadline:
    """The moment by which a whole retrieve has to be done."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Returns the seconds left.

        Raises:
            DeadlineExceeded: If there are none.
        """
        remaining_s = self._end_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout_s} s; raise `timeout_s` or ask for less")
        return remaining_s
