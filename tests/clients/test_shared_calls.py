"""Threads and tasks that share calls of one client, over a service that answers when the test says so."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.clients.conftest import World
from tests.clients.world import ScriptedQueryTower, abort, bad_request, serving
from tests.worlds import wait_for
from two_tower_client import (
    AsyncQueryTowerClient,
    DeadlineExceeded,
    Embeddings,
    InvalidRequest,
    QueryTowerClient,
    Retriever,
    Search,
    TwoTowerError,
)
from two_tower_client.features import Features


class Gated(ScriptedQueryTower):
    """Answers no call before `open` is set, and refuses queries of the age 99."""

    def __init__(self) -> None:
        super().__init__(("b1", "m1"))
        self.open = threading.Event()

    def EmbedQueries(self, request, context):
        ages = [list(query.features["age"].ints.values) for query in request.queries]
        self.receive(request, context)
        while context.is_active() and not self.open.wait(0.01):
            pass
        bad = [position for position, age in enumerate(ages) if age == [99]]
        if bad:
            abort(context, bad_request(*((f"queries[{position}].features[age]", "is 99") for position in bad)))
        return super().EmbedQueries(request, context)

    def receive(self, request, context):
        if not any(each is request for each in self.requests):
            super().receive(request, context)

    @property
    def ages(self) -> list[list[int]]:
        """The ages of the queries of each call."""
        return [[query.features["age"].ints.values[0] for query in request.queries] for request in self.requests]


@pytest.fixture
def gated() -> Iterator[tuple[Gated, str]]:
    service = Gated()
    with serving(service) as (address,):
        try:
            yield service, address
        finally:
            service.open.set()


@contextmanager
def asking(client: QueryTowerClient) -> Iterator[Callable[..., Future[Embeddings]]]:
    """Yields a function that embeds a query in a thread of its own, once all earlier ones are sent or in line."""
    with ThreadPoolExecutor(80) as threads:
        asked = 0

        def ask(features: Features, **options: object) -> Future[Embeddings]:
            nonlocal asked
            future = threads.submit(client.embed, [features], **options)  # pyright: ignore[reportArgumentType]
            asked += 1
            line = client._shared._line  # pyright: ignore[reportPrivateUsage]
            wait_for(lambda: future.done() or line._under_way + len(line._waiting) >= asked, "the query")  # pyright: ignore[reportPrivateUsage]
            return future

        yield ask


def vector(age: int) -> tuple[float, ...]:
    """Returns the embedding of a query, rounded: (cos, sin) of the age in degrees."""
    return {0: (1.0, 0.0), 60: (0.5, 0.866), 90: (0.0, 1.0)}[age]


def rounded(answer: Embeddings) -> tuple[float, ...]:
    (values,) = answer.vectors
    return tuple(round(value, 3) + 0.0 for value in values)


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


@pytest.mark.parametrize("coalesce", [False, True])
def test_every_query_is_a_call_without_coalescing(gated: tuple[Gated, str], coalesce: bool) -> None:
    service, address = gated
    with QueryTowerClient(address, timeout_s=30, coalesce=coalesce) as client, ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(client.embed, [{"age": age}]) for age in (0, 60, 90)]
        wait_for(lambda: len(service.requests) == (1 if coalesce else 3), "the calls")
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


def test_each_caller_stops_at_its_own_deadline(gated: tuple[Gated, str]) -> None:
    service, address = gated
    with QueryTowerClient(address) as client, asking(client) as ask:
        began_s = time.monotonic()
        long, short = ask({"age": 0}, timeout_s=30), ask({"age": 60}, timeout_s=0.4)
        with pytest.raises(DeadlineExceeded, match="did not answer in time"):
            short.result()
        assert 0.4 <= time.monotonic() - began_s < 5
        assert not long.done()
        service.open.set()
        assert rounded(long.result()) == vector(0)


def test_a_query_does_not_hang_behind_a_call_that_hangs(gated: tuple[Gated, str]) -> None:
    service, address = gated

    async def ask() -> None:
        async with AsyncQueryTowerClient(address) as client:
            first = asyncio.create_task(client.embed([{"age": 0}], timeout_s=30))
            while not service.requests:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(client.embed([{"age": 60}], timeout_s=4))
            while len(service.requests) < 2:  # an eighth of 4 s later, while the first is under way
                await asyncio.sleep(0.01)
            service.open.set()
            await asyncio.gather(first, second)

    asyncio.run(ask())
    service.open.clear()
    with QueryTowerClient(address) as client, asking(client) as ask_in_thread:
        ask_in_thread({"age": 0}, timeout_s=30)
        ask_in_thread({"age": 60}, timeout_s=4)
        wait_for(lambda: len(service.requests) == 4, "a call beside the one that hangs")
        service.open.set()
    assert service.ages == [[0], [60], [0], [60]]


def test_a_cancelled_task_leaves_the_others_alone(gated: tuple[Gated, str]) -> None:
    service, address = gated

    async def ask() -> list[Embeddings | BaseException]:
        async with AsyncQueryTowerClient(address, timeout_s=30) as client:
            tasks = [asyncio.create_task(client.embed([{"age": age}])) for age in (0, 60)]
            while not service.requests:
                await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(client.embed([{"age": age}])) for age in (0, 90)]
            await asyncio.sleep(0)
            for task in (tasks[0], waiting[0]):
                task.cancel()
            service.open.set()
            return await asyncio.gather(*tasks, *waiting, return_exceptions=True)

    cancelled, first, removed, second = asyncio.run(ask())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(removed, asyncio.CancelledError)
    assert isinstance(first, Embeddings)
    assert isinstance(second, Embeddings)
    assert (rounded(first), rounded(second)) == (vector(60), vector(90))
    assert service.ages == [[0, 60], [90]]


def test_a_call_that_nobody_waits_for_any_more_is_cancelled(gated: tuple[Gated, str]) -> None:
    service, address = gated
    left = threading.Event()
    receive = service.receive

    def note(request: object, context: object) -> None:
        receive(request, context)
        context.add_callback(left.set)  # type: ignore[attr-defined]

    service.receive = note  # type: ignore[method-assign]

    async def ask() -> None:
        async with AsyncQueryTowerClient(address, timeout_s=30) as client:
            tasks = [asyncio.create_task(client.embed([{"age": age}])) for age in (0, 60)]
            while not service.requests:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            wait_for(left.is_set, "the end of the call")

    asyncio.run(ask())


def test_the_end_of_a_loop_leaves_nothing_behind(gated: tuple[Gated, str], caplog: pytest.LogCaptureFixture) -> None:
    service, address = gated

    async def leave() -> None:
        client = AsyncQueryTowerClient(address, timeout_s=30)
        tasks = {asyncio.create_task(client.embed([{"age": age}])) for age in range(50)}
        while not service.requests:
            await asyncio.sleep(0.01)
        assert len(tasks) == 50

    began_s = time.monotonic()
    asyncio.run(leave())
    assert time.monotonic() - began_s < 10
    assert not caplog.records


def test_closing_the_client_ends_all_who_share_and_wait(gated: tuple[Gated, str]) -> None:
    service, address = gated
    client = QueryTowerClient(address, timeout_s=30)
    began_s = time.monotonic()
    with asking(client) as ask:
        answers = [ask({"age": 0}) for _ in range(5)]
        wait_for(lambda: bool(service.requests), "the call")
        client.close()
        for answer in answers:
            assert isinstance(answer.exception(), TwoTowerError)
    assert time.monotonic() - began_s < 10

    async def close() -> list[object]:
        client = AsyncQueryTowerClient(address, timeout_s=30)
        tasks = [asyncio.create_task(client.embed([{"age": 0}])) for _ in range(5)]
        while len(service.requests) < 2:
            await asyncio.sleep(0.01)
        await client.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in asyncio.run(close())] == [InvalidRequest] * 5


def test_who_is_interrupted_while_it_makes_the_call_of_others_leaves_them_to_the_next(world: World) -> None:
    with QueryTowerClient(world.query_tower_address, timeout_s=30) as client:
        shared = client._shared  # pyright: ignore[reportPrivateUsage]
        send, entered, interrupt = shared._send, threading.Event(), threading.Event()  # pyright: ignore[reportPrivateUsage]

        def interrupted(call):
            if not entered.is_set():
                entered.set()
                assert interrupt.wait(30)
                return send(call)
            if call.query_count == 3:
                raise KeyboardInterrupt
            return send(call)

        shared._send = interrupted  # pyright: ignore[reportPrivateUsage]
        with asking(client) as ask:
            answers = [ask({"age": 0}) for _ in range(4)]
            interrupt.set()
            ended = [answer.exception() for answer in answers]
    assert [type(error) for error in ended].count(KeyboardInterrupt) == 1
    assert ended.count(None) == 3


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
            Search(similar_to="east", exclude=["x" * 100] * 100),
        ):
            retriever.ann.search([search])
        retriever.ann.search([Search(similar_to="east")] * 2)
