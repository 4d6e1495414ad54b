"""Calls that a replica keeps without an answer are sent to another replica too."""

import asyncio
import time

import grpc
import pytest

from tests.clients.world import ScriptedAnn, bad_request, serving
from tests.worlds import wait_for
from two_tower_client import AnnClient, AsyncAnnClient, DeadlineExceeded, InvalidRequest, Unavailable
from two_tower_client.rpc.channel import connect
from two_tower_client.rpc.retries import Retries


def test_another_replica_answers_calls_to_a_replica_that_hangs() -> None:
    with (
        serving(ScriptedAnn(("b1", "m1")), hanging := ScriptedAnn(("b1", "m1"))) as addresses,
        AnnClient(addresses, timeout_s=4) as client,
    ):
        wait_for(lambda: client.status() and hanging.requests, "both replicas are connected")
        hanging.hang = True
        hanging.requests.clear()
        for _ in range(4):  # every second call goes to the replica that hangs
            assert client.status().newest_model_version == "m1"
        assert hanging.requests


def test_another_replica_answers_calls_of_an_asyncio_client_too() -> None:
    async def call(addresses: list[str], hanging: ScriptedAnn) -> None:
        async with AsyncAnnClient(addresses, timeout_s=4) as client:
            while not hanging.requests:
                await client.status()
            hanging.hang = True
            hanging.requests.clear()
            for _ in range(4):
                assert (await client.status()).newest_model_version == "m1"
            assert hanging.requests
            async with asyncio.timeout(5):  # no other attempt is left behind
                while len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0.01)

    with serving(ScriptedAnn(("b1", "m1")), hanging := ScriptedAnn(("b1", "m1"))) as addresses:
        asyncio.run(call(addresses, hanging))


def test_a_replica_that_hangs_gets_no_calls_for_a_while() -> None:
    with (
        serving(ScriptedAnn(("b1", "m1")), hanging := ScriptedAnn(("b1", "m1"))) as addresses,
        AnnClient(addresses, timeout_s=1) as client,
    ):
        wait_for(lambda: client.status() and hanging.requests, "both replicas are connected")
        hanging.hang = True

        def is_avoided() -> bool:
            hanging.requests.clear()
            for _ in range(10):
                client.status()
            return not hanging.requests

        wait_for(is_avoided, "ten calls go to the other replica")
        hanging.hang = False
        wait_for(lambda: client.status() and hanging.requests, "it gets calls again")


def test_attempts_that_fail_are_ignored_while_another_is_in_flight() -> None:
    refusing, slow = ScriptedAnn(("b1", "m1")), ScriptedAnn(("b1", "m1"))
    with serving(refusing, slow) as addresses, AnnClient(addresses, timeout_s=4) as client:
        wait_for(lambda: client.status() and refusing.requests and slow.requests, "both replicas are connected")
        refusing.always = bad_request(("searches", "as scripted"))
        slow.on_status = lambda: time.sleep(1.0)
        answered = 0
        for _ in range(2):  # at least one goes first to the slow replica, and then to the one that refuses
            try:
                answered += client.status().newest_model_version == "m1"
            except InvalidRequest:
                assert slow.requests
        assert answered > 0


def test_without_an_answer_the_call_ends_at_its_deadline() -> None:
    with (
        serving(first := ScriptedAnn(("b1", "m1")), second := ScriptedAnn(("b1", "m1"))) as addresses,
        AnnClient(addresses) as client,
    ):
        first.hang = second.hang = True
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.status(timeout_s=1.0)
        assert 0.9 < time.monotonic() - began < 5
        assert len(first.requests) + len(second.requests) > 2


def test_a_call_to_one_address_is_sent_once() -> None:
    with serving(hanging := ScriptedAnn(("b1", "m1"))) as (address,), AnnClient(address) as client:
        hanging.hang = True
        with pytest.raises(DeadlineExceeded):
            client.status(timeout_s=1.0)
        assert len(hanging.requests) == 1


@pytest.mark.parametrize(
    ("address", "several"),
    [
        ("localhost:1", False),
        ("[::1]:1", False),
        ("unix:/run/ann.sock", False),
        ("ann.internal:1", True),
        ("dns:///ann:1", True),
        ("10.0.0.1:1,10.0.0.2:1", True),
    ],
)
def test_a_name_may_have_several_replicas(address: str, several: bool) -> None:
    assert connect(address).has_several_replicas == several


def test_a_budget_bounds_the_further_attempts_and_leaves_the_retries_alone() -> None:
    retries = Retries(throttled=False)
    assert [retries.hedge() for _ in range(101)] == [True] * 100 + [False]
    assert retries.failed(Unavailable("gone"), grpc.StatusCode.UNAVAILABLE, attempts=1, remaining_s=1.0) is not None
    for _ in range(11):  # each call adds a tenth of an attempt; one more than ten, as tenths do not add up exactly
        retries.admit("target")
    assert [retries.hedge(), retries.hedge()] == [True, False]
