"""One retrieve in progress: its deadline, its searches, and its next step. `Retriever` makes the calls."""

import time
from collections.abc import Sequence
from dataclasses import replace

from two_tower_client.errors import DeadlineExceeded, InvalidRequest, ModelNotServed
from two_tower_client.model_agreement import Embedded, NotServed, Outcome, Pin, Searched, Step, exchange
from two_tower_client.results import Embeddings, Retrieval, SearchAnswer
from two_tower_client.search import Search, with_embeddings


class RetrieveRequest:
    """The steps of one retrieve that embeds its queries.

    For each `step`, call the query tower service (Embed) or the ANN service (Search) and pass the answer to `advance`,
    until `step` is None.

    Attributes:
        step: Next step; None once `retrievals` is complete.
        pin: Pin for the next request, once `step` is None.
        retrievals: One retrieval for each query, once `step` is None.
    """

    def __init__(self, pin: Pin, searches: Sequence[Search]) -> None:
        self.pin = pin
        self.retrievals = list[Retrieval]()
        self._searches = searches
        self._embeddings = Embeddings((), "")
        self._exchange = exchange(pin)
        self.step: Step | None = next(self._exchange)

    def searches(self) -> list[Search]:
        """Returns the searches with the last embeddings.

        Raises:
            ServerError: If the number of embeddings differs from the number of queries.
        """
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
        except ModelNotServed as disagreement:
            raise disagreement from (answer if isinstance(answer, ModelNotServed) else None)


class Deadline:
    """The end of a retrieve, `timeout_s` seconds from now. It bounds all its calls together."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Returns the seconds that are left.

        Raises:
            DeadlineExceeded: If no time is left.
        """
        remaining_s = self._end_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout_s} s; raise `timeout_s` or ask for less")
        return remaining_s


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
