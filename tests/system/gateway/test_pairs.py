"""Two pairs behind the gateway: shares of users, shares of mirrored calls, and replicas and an Envoy that are killed.

`GATEWAY_CALLS=10000` is the long form.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from testbed.load import Load
from testbed.services import Pair
from tests.system.gateway.world import QUERIES, REPLICAS, World, requests, wait_until_healthy
from tests.worlds import wait_for, write_bundle
from two_tower_client import Retrieval, Retriever, Unavailable

CALLS = int(os.environ.get("GATEWAY_CALLS", "1000"))
"""Number of retrieves that a share is judged by."""
EMBED, SEARCH = "EmbedQueries", "SearchItems"


@pytest.fixture(autouse=True)
def no_shares(world: World) -> Iterator[None]:
    yield
    world.gateway.set_shares()


def within_bounds(count: int, total: int, share: float) -> bool:
    """Returns whether a count is that of a share, within five standard deviations of a binomial distribution."""
    return abs(count - total * share) < 5 * math.sqrt(total * share * (1 - share))


def refused(world: World) -> int:
    """Returns the number of calls that a service of either pair refused, because it does not have their model."""
    replicas = [(each, EMBED) for pair in (world.stable, world.candidate) for each in pair.query_towers]
    replicas += [(each, SEARCH) for pair in (world.stable, world.candidate) for each in pair.anns]
    return sum(requests(replica, method).get("FAILED_PRECONDITION", 0) for replica, method in replicas)


def test_a_fifth_of_the_users_has_the_candidate_and_every_user_has_one_pair(world: World, retriever: Retriever) -> None:
    world.gateway.set_shares(candidate=20)
    refused_before = refused(world)
    users = [f"user-{number}" for number in range(CALLS // 2)]

    def ask(number: int) -> tuple[str, Retrieval, bool]:
        user = users[number % len(users)]
        query = (number + number // len(users)) % len(QUERIES)  # another one for the second retrieve of the user
        answer = retriever.retrieve(QUERIES[query], 5, user=user)
        return user, answer, world.is_mixed(query, answer)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, range(CALLS)))
    bundles = defaultdict[str, set[str]](set)
    for user, answer, _ in answers:
        bundles[user].add(answer.bundle_version)
    assert sum(mixed for _, _, mixed in answers) == 0
    assert {len(each) for each in bundles.values()} == {1}
    on_candidate = sum(each == {world.candidate_store.live_version()} for each in bundles.values())
    assert within_bounds(on_candidate, len(users), 0.2)
    # Both calls of a user went to one pair at once: no service was asked for the model of the other pair.
    assert refused(world) == refused_before


def test_a_larger_share_leaves_the_users_of_the_candidate_where_they_are(world: World) -> None:
    users = [f"u{number}" for number in range(100)]

    def users_of_candidate() -> set[str]:
        live = world.candidate_store.live_version()
        by_service = [
            {user for user in users if world.get(path, two_tower_user=user).json["live_bundle_version"] == live}
            for path in ("/v1/query-tower/status", "/v1/ann/status")
        ]
        assert by_service[0] == by_service[1]
        return by_service[0]

    found = list[set[str]]()
    for share in (0, 20, 50, 100):
        world.gateway.set_shares(candidate=share)
        found.append(users_of_candidate())
    none, fifth, half, everyone = found
    assert (len(none), len(everyone)) == (0, len(users))
    assert fifth < half
    assert within_bounds(len(half), len(users), 0.5)


def test_a_call_without_a_user_goes_to_the_stable_pair(world: World, retriever: Retriever) -> None:
    world.gateway.set_shares(candidate=100)
    answers = [retriever.retrieve(QUERIES[n % len(QUERIES)], 3) for n in range(20)]
    assert {answer.bundle_version for answer in answers} == {world.stable_store.live_version()}
    assert retriever.retrieve(QUERIES[0], 3, user="u").bundle_version == world.candidate_store.live_version()


def test_nothing_is_mixed_while_a_pair_swaps_and_the_share_changes(world: World, retriever: Retriever) -> None:
    stop, answers = threading.Event(), list[tuple[str, int, Retrieval]]()

    def ask(first: int) -> None:
        for number in itertools.count(first):
            if stop.is_set():
                return
            user, query = f"user-{number % 40}", number % len(QUERIES)
            answers.append((user, query, retriever.retrieve(QUERIES[query], 5, user=user)))

    def wait_for_answers_of(version: str) -> None:
        before = len(answers)
        wait_for(lambda: any(a.bundle_version == version for _, _, a in answers[before:]), f"answers of {version}")

    world.gateway.set_shares(candidate=50)
    versions = {world.stable_store.live_version(), world.candidate_store.live_version()}
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask, first) for first in (0, 13)]
        try:
            for seed, store in ((3, world.candidate_store), (4, world.stable_store)):
                version = write_bundle(store, seed=2, catalogue_seed=seed).bundle_version
                versions.add(version)
                wait_for_answers_of(version)
                world.gateway.set_shares(candidate=50 + 10 * seed)
                wait_for_answers_of(version)
        finally:
            stop.set()
        for each in asking:
            each.result()  # raises what a retrieve raised
    assert {answer.bundle_version for _, _, answer in answers} == versions
    assert [version for _, query, version in answers if world.is_mixed(query, version)] == []


def test_a_tenth_of_the_calls_is_mirrored_and_the_stable_pair_answers(world: World, retriever: Retriever) -> None:
    def received(pair: Pair) -> np.ndarray:
        return np.array(
            [
                sum(sum(requests(replica, method).values()) for replica in replicas)
                for replicas, method in ((pair.query_towers, EMBED), (pair.anns, SEARCH))
            ]
        )

    def mirrored() -> np.ndarray:
        return np.array([world.gateway.calls_to(f"candidate-{service}") for service in ("query-tower", "ann")])

    asked_before, received_before, mirrored_before = received(world.stable), received(world.candidate), mirrored()
    world.gateway.set_shares(mirrored=10)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: retriever.retrieve(QUERIES[n % len(QUERIES)], 5), range(CALLS)))
    assert {answer.bundle_version for answer in answers} == {world.stable_store.live_version()}
    sent = mirrored() - mirrored_before
    asked = received(world.stable) - asked_before  # fewer than the retrieves, since these share calls
    assert all(within_bounds(count, total, 0.1) for count, total in zip(sent, asked, strict=True))
    wait_for(
        lambda: np.array_equal(received(world.candidate) - received_before, sent), "the candidate has answered them all"
    )


def test_no_call_fails_while_a_replica_of_each_service_is_killed_and_comes_back(
    world: World, retriever: Retriever
) -> None:
    with Load(retriever, QUERIES, world.offline, clients=2, k=5) as load:

        def wait_for_answers() -> None:
            before = load.tally.sent
            wait_for(lambda: load.tally.sent >= before + 100, "100 more answers")

        wait_for_answers()
        for replica in (world.stable.query_towers[0], world.stable.anns[0]):
            replica.kill()
        wait_for_answers()
        for service in ("query-tower", "ann"):
            cluster = f"stable-{service}"
            wait_for(lambda name=cluster: world.gateway.healthy_replicas(name) == REPLICAS - 1, f"{cluster} lacks one")
        for replica in (world.stable.query_towers[0], world.stable.anns[0]):
            replica.start()
        wait_until_healthy(world.gateway)
        wait_for_answers()
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)


def test_calls_are_unavailable_while_envoy_is_away_and_go_on_when_it_is_back(
    world: World, retriever: Retriever
) -> None:
    assert retriever.retrieve(QUERIES[0], 3)
    world.gateway.kill()
    with pytest.raises(Unavailable):
        retriever.retrieve(QUERIES[0], 3, timeout_s=0.3)
    world.gateway.start()
    answer = retriever.retrieve(QUERIES[0], 3)
    assert not world.is_mixed(0, answer)
