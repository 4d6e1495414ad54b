"""One retrieve in progress: its deadline, its id, its searches, and its next step. `Retriever` makes the calls."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from two_tower_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotServed,
    NoBundle,
    Overloaded,
    ServerError,
    TwoTowerError,
    Unavailable,
)
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Searched, Step, exchange
from two_tower_client.results import Embeddings, Retrieval, SearchAnswer
from two_tower_client.rpc.call_metadata import check_request_id, check_user, make_request_id
from two_tower_client.search import Search, to_list, with_embeddings

Fallback = Literal["popular"]
"""What a retrieve returns if its queries cannot be embedded: the most popular items ("popular")."""

FALLBACK_SHARE = 0.2
"""Share of the timeout of a retrieve with a fallback that embedding the queries leaves for the fallback."""

FALLBACK_ERRORS = (Unavailable, Overloaded, NoBundle, DeadlineExceeded)
"""Errors of the query tower that a fallback answers, as it does if the services share no model (ModelNotServed).

Any other error says that the caller or a service is wrong, and is raised.
"""


@dataclass(frozen=True, slots=True)
class SearchPopular:
    """Step: search the most popular items of the live bundle, in place of those nearest to the queries.

    Attributes:
        model_version: Empty: the model of the live bundle.
    """

    model_version: str = ""


class CallOptions(TypedDict):
    """The options of the next call.

    Attributes:
        timeout_s: Seconds that are left of the retrieve.
        request_id: Id of the retrieve, the same for all its calls.
        user: Key of the user, the same for all calls. Empty: none.
        wait: Whether the call waits while no replica can be reached: not if a fallback would answer.
        share: Whether the call may be shared: not if the caller gave the id.
    """

    timeout_s: float
    request_id: str
    user: str
    wait: bool
    share: bool


class RetrieveRequest:
    """The steps of one retrieve that embeds its queries.

    For each `step`, call the query tower service (Embed) or the ANN service (Search, SearchPopular) and pass the answer
    to `advance`, or the error to `recovers`, until `step` is None.

    Args:
        pin: Pin that the previous request left. It is ignored, and left as it is, if there is a user: between two pairs
            of services, the pin of one user may be of a model that the pair of another user does not have.
        searches: One search for each query, without its embedding.
        timeout_s: Seconds that all calls may take together, from now on.
        request_id: Request id. Empty: a random one.
        fallback: What to return if the queries cannot be embedded. None: the error is raised.
        user: Key of the user. Empty: none.
        exclude_history: Whether the searches leave out the items of the history of their query.

    Attributes:
        step: Next step; None once `retrievals` is complete.
        pin: Pin for the next request, once `step` is None.
        retrievals: One retrieval for each query, once `step` is None.

    Raises:
        InvalidRequest: If the request id, the user or the fallback is invalid.
    """

    def __init__(
        self,
        pin: Pin,
        searches: Sequence[Search],
        timeout_s: float,
        request_id: str = "",
        fallback: Fallback | None = None,
        user: str = "",
        *,
        exclude_history: bool = False,
    ) -> None:
        if fallback not in (None, "popular"):
            raise InvalidRequest.in_field("fallback", f"has to be None or 'popular', got {fallback!r}")
        self._request_id = check_request_id(request_id) if request_id else make_request_id()
        self._share = not request_id
        self._user = check_user(user)
        self._timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s
        self._has_fallback = fallback is not None
        self._reserved_s = FALLBACK_SHARE * timeout_s if self._has_fallback else 0.0
        self._fallback_reason = ""
        self.pin = pin
        self.retrievals = list[Retrieval]()
        self._searches = searches
        self._exclude_history = exclude_history
        self._embeddings = Embeddings((), "")
        self._exchange = exchange(Pin() if user else pin)
        self.step: Step | SearchPopular | None = next(self._exchange)

    def call_options(self) -> CallOptions:
        """Returns the options of the next call.

        Raises:
            DeadlineExceeded: If no time is left.
        """
        reserved_s = self._reserved_s if isinstance(self.step, Embed) else 0.0
        remaining_s = self._end_s - reserved_s - time.monotonic()
        if remaining_s <= 0:
            limit_s = self._timeout_s - reserved_s
            error = DeadlineExceeded(f"no answer within {limit_s:g} s; raise `timeout_s` or ask for less")
            error.request_id = self._request_id
            raise error
        has_fallback = self._has_fallback and isinstance(self.step, Embed)
        return {
            "timeout_s": remaining_s,
            "request_id": self._request_id,
            "user": self._user,
            "wait": not has_fallback,
            "share": self._share,
        }

    def searches(self) -> list[Search]:
        """Returns the searches with the last embeddings, of which there is one for each query, or for popular items."""
        if isinstance(self.step, SearchPopular):
            return [popular_search(search) for search in self._searches]
        searches = with_embeddings(self._searches, self._embeddings)
        return exclude_histories(searches, self._embeddings.histories) if self._exclude_history else searches

    def advance(self, answer: Embeddings | SearchAnswer) -> None:
        """Takes the answer to `step` and sets the next step.

        Raises:
            ServerError: If the answer breaks the contract.
        """
        if isinstance(answer, Embeddings):
            self._embeddings = answer
            self._send(Embedded(answer.model_version))
        elif isinstance(self.step, SearchPopular):
            self.retrievals = [replace(each, fallback_reason=self._fallback_reason) for each in answer.retrievals]
            self.step = None
        else:
            unknown = self._embeddings.unknown_values or (0,) * len(answer.retrievals)
            stored = self._embeddings.stored_features or ("",) * len(answer.retrievals)
            self.retrievals = [
                replace(each, unknown_values=count, stored_features=outcome) if count or outcome else each
                for each, count, outcome in zip(answer.retrievals, unknown, stored, strict=True)
            ]
            self._send(Searched(answer.model_version, answer.newest_model_version))

    def recovers(self, error: TwoTowerError) -> bool:
        """Returns whether there is a next step after `step` failed, and sets it. If not, the error is the caller's.

        Raises:
            ModelNotServed: If no model was found that both services have open, and there is no fallback. Its cause is
                the last refusal.
        """
        if isinstance(self.step, SearchPopular):
            return False
        if isinstance(error, ModelNotServed):
            try:
                self._send(NotServed(error.model_versions), error)
            except ModelNotServed as disagreement:
                if not self._has_fallback:
                    raise
                self._fall_back(disagreement)
            return True
        if self._has_fallback and isinstance(self.step, Embed) and isinstance(error, FALLBACK_ERRORS):
            self._fall_back(error)
            return True
        return False

    def _fall_back(self, error: TwoTowerError) -> None:
        self._fallback_reason = _describe(error)
        self.step = SearchPopular()

    def _send(self, outcome: Outcome, cause: ModelNotServed | None = None) -> None:
        try:
            self.step = self._exchange.send(outcome)
        except StopIteration as done:
            self.step = None
            if not self._user:
                self.pin = done.value
        except (ModelNotServed, ServerError) as error:
            error.request_id = self._request_id
            raise error from cause


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


def exclude_histories(searches: Sequence[Search], histories: Sequence[Sequence[str]]) -> list[Search]:
    """Returns searches that also leave out the items of the history of their query.

    Args:
        searches: Searches, one for each query.
        histories: Item ids of each query, as the query tower service returned them.

    Raises:
        ServerError: If there is not a history for each search: the service is older than the client.
    """
    if len(histories) != len(searches):
        raise ServerError(
            f"the query tower returned {len(histories)} histories of {len(searches)} queries: it is older than this "
            "client; update it, or leave out `exclude_history`"
        )
    return [
        replace(search, exclude=list(dict.fromkeys([*to_list(search.exclude), *item_ids])))
        for search, item_ids in zip(searches, histories, strict=True)
    ]


def to_user_ids(user_id: str) -> Sequence[str]:
    """Returns the user of a single query as the users of a batch; none if it is empty."""
    return (user_id,) if user_id else ()


def to_texts(text: str) -> Sequence[str]:
    """Returns the text of a single query as the texts of a batch; none if it is empty."""
    return (text,) if text else ()


def as_fallback(retrieval: Retrieval, error: TwoTowerError) -> Retrieval:
    """Returns a retrieval of popular items, marked as the fallback after an error."""
    return replace(retrieval, fallback_reason=_describe(error))


def _describe(error: TwoTowerError) -> str:
    # The text alone: the error would keep alive the frames of its traceback.
    return f"{type(error).__name__}: {error}"


def popular_search(search: Search) -> Search:
    """Returns the search for popular items with the same `k`, filter, exclusions, attributes, diversity and facets.

    The other options belong to another ranking; the smallest score and boosts, for instance, have the unit of its
    scores.
    """
    return Search(
        popular=True,
        k=search.k,
        exclude=search.exclude,
        filter=search.filter,
        return_attributes=search.return_attributes,
        candidates_limit=search.candidates_limit,
        diversify=search.diversify,
        facets=search.facets,
    )
