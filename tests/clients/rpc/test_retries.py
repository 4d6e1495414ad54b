"""Retries of refused and failed calls, and their budget."""

import asyncio
import threading
from collections.abc import Callable

import grpc
import pytest

from tests.clients.conftest import World
from tests.clients.world import Failure, bare, overloaded
from tests.worlds import wait_for
from two_tower_client import (
    AsyncQueryTowerClient,
    Embeddings,
    Overloaded,
    QueryTowerClient,
    TwoTowerError,
    Unavailable,
)
from two_tower_client.rpc.retries import AdaptiveThrottle, Retries


def embed(world: World, **options: object) -> Embeddings:
    with QueryTowerClient(world.query_tower_address, **options) as client:  # type: ignore[arg-type]
        return client.embed([{}])


def embed_async(world: World, **options: object) -> Embeddings:
    async def ask() -> Embeddings:
        async with AsyncQueryTowerClient(world.query_tower_address, **options) as client:  # type: ignore[arg-type]
            return await client.embed([{}])

    return asyncio.run(ask())


both = pytest.mark.parametrize("embed", [embed, embed_async])


@both
@pytest.mark.parametrize("refusal", [overloaded(0.1), overloaded(pushback_ms="100")], ids=["RetryInfo", "pushback"])
def test_a_refused_call_is_sent_again_no_earlier_than_the_service_asks(
    world: World, embed: Callable[..., Embeddings], refusal: Failure
) -> None:
    world.query_tower.failures.extend([refusal] * 2)
    assert embed(world, timeout_s=5).model_version == "m1"
    first, second, third = world.query_tower.received_s
    assert second - first >= 0.1
    assert third - second >= 0.2  # the pause doubles


@both
@pytest.mark.parametrize("refusal", [overloaded(), overloaded(pushback_ms="-1"), overloaded(0.01, pushback_ms="soon")])
def test_a_refusal_without_a_time_is_not_retried(
    world: World, embed: Callable[..., Embeddings], refusal: Failure
) -> None:
    world.query_tower.failures.append(refusal)
    with pytest.raises(Overloaded) as caught:
        embed(world)
    assert len(world.query_tower.requests) == 1
    assert (caught.value.retry_after_s, caught.value.local) == (None, False)


@both
def test_the_refusal_is_raised_at_once_if_the_deadline_leaves_no_time(
    world: World, embed: Callable[..., Embeddings]
) -> None:
    world.query_tower.failures.append(overloaded(0.9))
    with pytest.raises(Overloaded, match=r"retry after 0\.9 s") as caught:
        embed(world, timeout_s=0.8)
    assert caught.value.retry_after_s == 0.9
    assert len(world.query_tower.requests) == 1


def test_a_retry_has_the_time_that_is_left(world: World) -> None:
    world.query_tower.failures.append(overloaded(0.2))
    embed(world, timeout_s=5)
    assert world.query_tower.timeouts_s[1] <= 4.8


@pytest.mark.parametrize(
    ("failure", "kind"), [(overloaded(0.001), Overloaded), (bare(grpc.StatusCode.UNAVAILABLE), Unavailable)]
)
def test_gives_up_after_four_attempts(world: World, failure: Failure, kind: type[TwoTowerError]) -> None:
    world.query_tower.always = failure
    with pytest.raises(kind):
        embed(world, timeout_s=5)
    assert len(world.query_tower.requests) == 4


def test_retries_are_at_most_a_tenth_of_the_calls(world: World) -> None:
    world.query_tower.always = overloaded(0)
    with QueryTowerClient(world.query_tower_address) as client:
        client._retries._budget._TOKENS_MAX = client._retries._budget._tokens = 10
        for _ in range(50):
            with pytest.raises(Overloaded):
                client.embed([{}])
    # 10 tokens at the start, and a tenth for each of 49 calls after the first, whose tenth found a full bucket.
    assert len(world.query_tower.requests) - 50 == 14


def test_a_burst_of_a_hundred_failures_can_be_retried() -> None:
    retries = Retries(throttled=False)
    failure = Unavailable("gone"), grpc.StatusCode.UNAVAILABLE
    pauses_s = [retries.failed(*failure, attempts=1, remaining_s=1) for _ in range(101)]
    assert [pause_s is not None for pause_s in pauses_s] == [True] * 100 + [False]
    # Ten calls pay for one retry.
    for _ in range(11):
        retries.admit("host:1")
    assert retries.failed(*failure, attempts=1, remaining_s=1) is not None
    assert retries.failed(*failure, attempts=1, remaining_s=1) is None


@pytest.mark.parametrize("doing", ["waits for the answer", "pauses"])
def test_closing_a_client_ends_its_call(world: World, doing: str) -> None:
    if doing == "pauses":
        world.query_tower.always = overloaded(0.2)
    else:
        world.query_tower.hang = True
    client = QueryTowerClient(world.query_tower_address, timeout_s=30)
    raised: list[TwoTowerError] = []

    def call() -> None:
        try:
            client.embed([{}])
        except TwoTowerError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    wait_for(lambda: bool(world.query_tower.requests), "the call")
    client.close()
    caller.join(10)
    assert len(raised) == 1
    assert len(world.query_tower.requests) == 1


def test_a_throttled_client_rejects_calls_of_an_overloaded_service_itself(world: World) -> None:
    world.query_tower.always = overloaded()
    raised = list[Overloaded]()
    with QueryTowerClient(world.query_tower_address, adaptive_throttling=True) as client:
        for _ in range(300):
            with pytest.raises(Overloaded) as caught:
                client.embed([{}], request_id="r1")
            raised.append(caught.value)
    local = [error for error in raised if error.local]
    assert len(local) + len(world.query_tower.requests) == 300
    # 20 calls are sent before the throttle may act. After them it rejects n / (n + 1) of n: at least 20 of 21.
    assert len(local) >= 200
    assert "not sent: " in str(local[0])
    assert str(local[0]).endswith("(request r1)")


def test_throttle_follows_the_formula_and_forgets() -> None:
    now_s = 0.0
    throttle = AdaptiveThrottle(clock=lambda: now_s)
    for number in range(1000):
        throttle.count(accepted=number % 2 == 0)
    assert all(throttle.admits() for _ in range(100))  # half are accepted: 1000 - 2 * 500 = 0
    for _ in range(2000):
        throttle.count(accepted=False)
    # (3000 - 2 * 500) / 3001 = 0.67, rising with each rejection.
    admitted = sum(throttle.admits() for _ in range(300))
    assert 40 <= admitted <= 140
    now_s = 12.0  # e^-6 of at most 3,300 is below 20
    assert all(throttle.admits() for _ in range(100))
