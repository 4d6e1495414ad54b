"""One retrieve in progress: its deadline, its id, its searches, and its next step. `Retriever` makes the calls."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

from two_tower_client.errors import DeadlineExceeded, InvalidRequest, ModelNotServed, ServerError
from two_tower_client.model_agreement import Embedded, NotServed, Outcome, Pin, Searched, Step, exchange
from two_tower_client.results import Embeddings, Retrieval, SearchAnswer
from two_tower_client.rpc.call_metadata import check_request_id, make_request_id
from two_tower_client.search import Search, with_embeddings


class CallOptions(TypedDict):
    """The options of the next call.

    Attributes:
        timeout_s: Seconds that are left of the retrieve.
        request_id: Id of the retrieve, the same for all its calls.
    """

    timeout_s: float
    request_id: str


class RetrieveRequest:
    """The steps of one retrieve that embeds its queries.

    For each `step`, call the query tower service (Embed) or the ANN service (Search) and pass the answer to `advance`,
    until `step` is None.

    Args:
        pin: Pin that the previous request left.
        searches: One search for each query, without its embedding.
        timeout_s: Seconds that all calls may take together, from now on.
        request_id: Request id. Empty: a random one.

    Attributes:
        step: Next step; None once `retrievals` is complete.
        pin: Pin for the next request, once `step` is None.
        retrievals: One retrieval for each query, once `step` is None.

    Raises:
        InvalidRequest: If the request id is invalid.
    """

    def __init__(self, pin: Pin, searches: Sequence[Search], timeout_s: float, request_id: str = "") -> None:
        self._request_id = check_request_id(request_id) if request_id else make_request_id()
        self._timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s
        self.pin = pin
        self.retrievals = list[Retrieval]()
        self._searches = searches
        self._embeddings = Embeddings((), "")
        self._exchange = exchange(pin)
        self.step: Step | None = next(self._exchange)

    def call_options(self) -> CallOptions:
        """Returns the options of the next call.

        Raises:
            DeadlineExceeded: If no time is left.
        """
        remaining_s = self._end_s - time.monotonic()
        if remaining_s <= 0:
            error = DeadlineExceeded(f"no answer within {self._timeout_s} s; raise `timeout_s` or ask for less")
            error.request_id = self._request_id
            raise error
        return {"timeout_s": remaining_s, "request_id": self._request_id}

    def searches(self) -> list[Search]:
        """Returns the searches with the last embeddings, of which there is one for each query."""
        return with_embeddings(self._searches, self._embeddings)

    def advance(self, answer: Embeddings | SearchAnswer | ModelNotServed) -> None:
        """Takes the answer to `step` and sets the next step.

        Raises:
            ModelNotServed: If no model was found that both services have open. Its cause is the last refusal.
            ServerError: If the answer breaks the contract.
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
        except (ModelNotServed, ServerError) as error:
            error.request_id = self._request_id
            raise error from (answer if isinstance(answer, ModelNotServed) else None)


def make_searches(query_count: int, texts: Sequence[str], search: Search) -> list[Search]:
    """Returns one search for each query, without its embedding.

    Args:
        query_count: Number of queries.
        texts: Text of each query, or empty.
        search: Options of all searches.

    Raises:
        InvalidRequest: If there are texts, but not one for each query.
    """
    if isinstance(texts, str) or (texts and len(texts) != query_count):
        given = "a string" if isinstance(texts, str) else f"{len(texts)} texts"
        raise InvalidRequest.in_field("texts", f"takes a list of one for each of {query_count} queries, got {given}")
    return [replace(search, text=text) for text in texts] if texts else [search] * query_count
