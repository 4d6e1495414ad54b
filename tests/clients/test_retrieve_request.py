"""The time that a retrieve with a fallback leaves for it."""

from types import SimpleNamespace

import pytest

from two_tower_client.errors import DeadlineExceeded, InvalidRequest, Overloaded
from two_tower_client.filters import equals
from two_tower_client.model_agreement import Embed, Pin
from two_tower_client.results import Embeddings, Retrieval, SearchAnswer
from two_tower_client.retrieve_request import RetrieveRequest, SearchPopular
from two_tower_client.search import Search

SEARCH = Search(k=2, exclude=["a"], filter=equals("genre", "x"), min_score=0.5, exact=True, return_attributes=["title"])


class Clock:
    now_s = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    stub = SimpleNamespace(monotonic=lambda: clock.now_s)
    monkeypatch.setattr("two_tower_client.retrieve_request.time", stub)
    return clock


def test_embedding_gets_four_fifths_of_the_timeout_and_the_fallback_the_rest(clock: Clock) -> None:
    request = RetrieveRequest(Pin("m1"), [SEARCH], 1.0, "r1", "popular")
    assert request.step == Embed("m1")
    assert request.call_options() == {
        "timeout_s": pytest.approx(0.8),
        "request_id": "r1",
        "user": "",
        "wait": False,
        "share": False,
    }
    clock.now_s = 100.9
    with pytest.raises(DeadlineExceeded, match=r"within 0\.8 s") as caught:
        request.call_options()
    assert request.recovers(caught.value)
    assert request.step == SearchPopular()
    assert request.call_options()["timeout_s"] == pytest.approx(0.1)
    popular = Search(popular=True, k=2, exclude=["a"], filter=equals("genre", "x"), return_attributes=["title"])
    assert request.searches() == [popular]
    assert not request.recovers(Overloaded("the ANN service refuses"))
    request.advance(SearchAnswer((Retrieval(("b",), (0.1,), {}, "m2", "b2"),), "m2", "b2", "m2"))
    [retrieval] = request.retrievals
    assert (request.step, request.pin) == (None, Pin("m1"))
    assert retrieval.fallback_reason.startswith("DeadlineExceeded: no answer within 0.8 s")


def test_a_search_gets_all_the_time_that_is_left(clock: Clock) -> None:
    request = RetrieveRequest(Pin(), [SEARCH], 1.0, "r1", "popular")
    clock.now_s = 100.3
    request.advance(Embeddings(((1.0, 0.0),), "m1"))
    assert request.call_options()["timeout_s"] == pytest.approx(0.7)
    # A search by embedding that the ANN service refuses is not answered by another search there.
    assert not request.recovers(Overloaded("the ANN service refuses"))


def test_without_a_fallback_embedding_gets_the_whole_timeout(clock: Clock) -> None:
    request = RetrieveRequest(Pin(), [SEARCH], 1.0)
    assert request.call_options()["timeout_s"] == pytest.approx(1.0)
    assert not request.recovers(Overloaded("the query tower refuses"))


def test_errors_of_the_caller_have_no_fallback(clock: Clock) -> None:
    assert not RetrieveRequest(Pin(), [SEARCH], 1.0, "", "popular").recovers(InvalidRequest("unknown feature"))


def test_a_request_of_a_user_neither_uses_nor_leaves_a_pin() -> None:
    request = RetrieveRequest(Pin("m1"), [SEARCH], 1.0, user="u1")
    assert request.step == Embed("")
    assert request.call_options()["user"] == "u1"
    request.advance(Embeddings(((1.0, 0.0),), "m2"))
    request.advance(SearchAnswer((Retrieval(("b",), (0.1,), {}, "m2", "b2"),), "m2", "b2", "m2"))
    assert (request.step, request.pin) == (None, Pin("m1"))
