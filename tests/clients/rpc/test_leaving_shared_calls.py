"""Callers that leave a shared call: at a deadline, cancelled, interrupted, or because the client is closed."""

import asyncio
import threading
import time

import pytest

from tests.clients.conftest import World
from tests.clients.rpc.gated import Gated, asking, rounded, vector
from tests.worlds import wait_for
from two_tower_client import (
    AsyncQueryTowerClient,
    DeadlineExceeded,
    Embeddings,
    InvalidRequest,
    QueryTowerClient,
    TwoTowerError,
)


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


def test_a_call_that_is_cancelled_before_its_first_step_is_over(gated: tuple[Gated, str]) -> None:
    service, address = gated

    async def ask() -> None:
        async with AsyncQueryTowerClient(address) as client:

            async def first() -> None:
                await client.embed([{"age": 0}], timeout_s=120)
                second.cancel()  # its call has its turn now, and has not begun

            waiting = asyncio.create_task(first())
            while not service.requests:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(client.embed([{"age": 60}], timeout_s=120))
            await asyncio.sleep(0.05)
            service.open.set()
            await asyncio.gather(waiting, second, return_exceptions=True)
            await asyncio.sleep(0.05)
            began_s = time.monotonic()
            await client.embed([{"age": 30}], timeout_s=120)
            assert time.monotonic() - began_s < 10  # not an eighth of 120 s, as if the one before were under way

    asyncio.run(ask())


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
