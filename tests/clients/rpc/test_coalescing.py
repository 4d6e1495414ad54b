"""Threads and tasks that share calls of one client."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.conftest import World
from tests.clients.rpc.gated import Gated, asking, rounded, vector
from tests.worlds import wait_for
from two_tower_client import (
    AsyncQueryTowerClient,
    Boost,
    Diversify,
    Embeddings,
    InvalidRequest,
    QueryTowerClient,
    Retriever,
    Search,
    ServerError,
)
from two_tower_client.filters import equals


def test_threads_that_ask_while_a_call_is_under_way_share_the_next(gated: tuple[Gated, str]) -> None:
    service, address = gated
    with QueryTowerClient(address, timeout_s=30) as client, asking(client) as ask:
        answers = [ask({"age": 0}), ask({"age": 60}), ask({"age": 90})]
        wait_for(lambda: bool(service.requests), "the call")
        service.open.set()
        assert [rounded(each.result()) for each in answers] == [vector(0), vector(60), vector(90)]
    assert service.ages == [[0], [60, 90]]


def test_tasks_that_ask_in_one_turn_of_the_loop_share_a_call(gated: tuple[Gated, str]) -> None:
    service, address = gated
    service.open.set()

    async def ask() -> list[Embeddings]:
        async with AsyncQueryTowerClient(address, timeout_s=30) as client:
            return await asyncio.gather(*(client.embed([{"age": age}]) for age in (90, 0, 60)))

    assert [rounded(each) for each in asyncio.run(ask())] == [vector(90), vector(0), vector(60)]
    assert service.ages == [[90, 0, 60]]


def test_every_query_is_a_call_without_coalescing(gated: tuple[Gated, str]) -> None:
    service, address = gated
    with QueryTowerClient(address, timeout_s=30, coalesce=False) as client, ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(client.embed, [{"age": age}]) for age in (0, 60, 90)]
        wait_for(lambda: len(service.requests) == 3, "the calls")
        service.open.set()
        for answer in answers:
            answer.result()


def test_a_name_that_may_stand_for_many_replicas_is_called_once_a_query(gated: tuple[Gated, str]) -> None:
    service, address = gated
    name = address.replace("127.0.0.1", "dns:///localhost")
    with QueryTowerClient(name, timeout_s=30) as client, ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(client.embed, [{"age": age}]) for age in (0, 60)]
        wait_for(lambda: len(service.requests) == 2, "the calls")
        service.open.set()
        for answer in answers:
            answer.result()


@pytest.mark.parametrize("options", [{"request_id": "r1"}, {"user": "u1"}, {"share": False}])
def test_a_call_that_is_the_callers_own_does_not_wait(gated: tuple[Gated, str], options: dict) -> None:
    service, address = gated
    with QueryTowerClient(address, timeout_s=30) as client, asking(client) as ask, ThreadPoolExecutor(1) as own:
        first = ask({"age": 0})
        second = own.submit(client.embed, [{"age": 60}], **options)
        wait_for(lambda: len(service.requests) == 2, "the calls")
        service.open.set()
        assert [rounded(first.result()), rounded(second.result())] == [vector(0), vector(60)]


def test_a_bad_query_fails_alone(gated: tuple[Gated, str]) -> None:
    service, address = gated
    with QueryTowerClient(address, timeout_s=30) as client, asking(client) as ask:
        answers = [ask({"age": 0}), ask({"age": 60}), ask({"age": 99}), ask({"age": 90})]
        service.open.set()
        assert [rounded(answers[number].result()) for number in (0, 1, 3)] == [vector(0), vector(60), vector(90)]
        with pytest.raises(InvalidRequest) as caught:
            answers[2].result()
    assert caught.value.violations == (("queries[0].features[age]", "is 99"),)
    assert caught.value.request_id == service.metadata[-1]["x-request-id"]
    assert service.ages == [[0], [60, 99, 90], [60, 90], [99]]


def test_a_bad_task_fails_alone(gated: tuple[Gated, str]) -> None:
    service, address = gated
    service.open.set()

    async def ask() -> list[Embeddings | BaseException]:
        async with AsyncQueryTowerClient(address, timeout_s=30) as client:
            asked = (client.embed([{"age": age}]) for age in (0, 99, 60))
            return await asyncio.gather(*asked, return_exceptions=True)

    first, bad, second = asyncio.run(ask())
    assert isinstance(first, Embeddings)
    assert isinstance(second, Embeddings)
    assert isinstance(bad, InvalidRequest)
    assert [rounded(first), bad.violations[0][0], rounded(second)] == [
        vector(0),
        "queries[0].features[age]",
        vector(60),
    ]
    assert service.ages == [[0, 99, 60], [0, 60], [99]]


def test_a_bug_in_a_call_of_tasks_is_the_cause_of_their_errors(gated: tuple[Gated, str]) -> None:
    bug = RuntimeError("a bug")

    async def fail(call: object) -> None:
        raise bug

    async def ask() -> list[Embeddings | BaseException]:
        async with AsyncQueryTowerClient(gated[1], timeout_s=30) as client:
            client._shared._send = fail  # type: ignore[assignment]
            return await asyncio.gather(*(client.embed([{"age": age}]) for age in (0, 60)), return_exceptions=True)

    first, second = asyncio.run(ask())
    assert first is not second
    for error in (first, second):
        assert isinstance(error, ServerError)
        assert error.__cause__ is bug


def test_each_item_search_and_each_count_of_unknown_values_is_the_callers_own(world: World) -> None:
    with Retriever(**world.addresses, timeout_s=30) as retriever, ThreadPoolExecutor(16) as threads:

        def ask(number: int) -> tuple[tuple[str, ...], int]:
            features = {"age": 90 * (number % 2), "history": ["typo"] * (number % 3)}
            found = retriever.retrieve(features, k=1 + number % 2, return_attributes=["title"][: number % 2])
            assert len(found.attributes) == number % 2
            return found.item_ids, found.unknown_values

        answers = list(threads.map(ask, range(300)))
    # Even numbers: east first, one item. Odd ones: north first, then northeast, two items.
    assert answers == [(("north", "northeast") if n % 2 else ("east",), n % 3) for n in range(300)]
    assert len(world.ann.requests) < 300


def test_a_heavy_search_is_not_shared(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        shared = retriever.ann._shared  # pyright: ignore[reportPrivateUsage]
        shared._send = lambda call: pytest.fail("was shared")  # pyright: ignore[reportPrivateUsage]
        for search in (
            Search(similar_to="east", exact=True),
            Search(similar_to="east", search_budget=10),
            Search(similar_to="east", k=1001),
            Search(similar_to="east", candidates_limit=500),
            Search(similar_to="east", boosts=[Boost(equals("genres", "Drama"), 0.1)]),
            Search(similar_to="east", diversify=Diversify(0.3)),
            Search(similar_to="east", facets=["genres"]),
            Search(similar_to="east", exclude=["x" * 100] * 100),
        ):
            retriever.ann.search([search])
        retriever.ann.search([Search(similar_to="east")] * 2)
