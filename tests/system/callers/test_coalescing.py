"""Calls that threads and tasks share: answers and errors are those of single calls, also while models are swapped."""

from __future__ import annotations

import asyncio
import functools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.store.folder_store import FolderStore
from testbed.load import Load
from testbed.offline import OfflineBundle
from tests.harness import ann_service, query_tower_service
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from tests.worlds import wait_for
from two_tower_client import AsyncRetriever, InvalidRequest, Retrieval, Retriever, TwoTowerError
from two_tower_client.filters import equals

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

K = 4
CALLERS = 64
SWAPS = 20
CALLS = 10_000

FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "history": st.lists(st.sampled_from([*(f"p{item:02}" for item in range(40)), "typo"]), max_size=6),
        "age": st.sampled_from([20.0, 35, 70.5, "old", True, float("nan")]),
        "gender": st.sampled_from(["f", "m", "?", 3]),
        "unknown": st.just("feature"),
    },
)
OPTIONS = st.fixed_dictionaries(
    {"k": st.sampled_from([1, 2, 4, 4, 4, 7, 0, 100_000])},
    optional={
        "exclude": st.lists(st.sampled_from(["p01", "p02", "p03", "p99"]), max_size=3),
        "filter": st.sampled_from([equals("genres", "drama"), equals("year", "then"), equals("colour", "red")]),
        "return_attributes": st.sampled_from([["title"], ["year", "genres"], ["colour"]]),
        "min_score": st.sampled_from([-1.0, 0.2, 7.0]),
        "ranking": st.sampled_from(["fused", "lexical"]),
        "text": st.sampled_from(["film", "title 3", "", " "]),
    },
)
RETRIEVE = st.tuples(st.just("retrieve"), FEATURES, OPTIONS)
SIMILAR = st.tuples(st.just("similar_to"), st.sampled_from(["p01", "p40", ["p02", "nothing"]]), OPTIONS)
ASKED = st.lists(st.one_of(RETRIEVE, RETRIEVE, SIMILAR), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def addresses(shop: Shop) -> Iterator[tuple[str, str]]:
    with query_tower_service(shop.store) as query_tower, ann_service(shop.store) as ann:
        query_tower.wait_for_bundle(shop.versions[0])
        ann.wait_for_bundle(shop.versions[0])
        yield f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}"


def outcome(ask: Callable[[], Retrieval]) -> object:
    """Returns an answer, or the class, text and details of an error."""
    try:
        return ask()
    except TwoTowerError as error:
        return failed(error)


def expected_from(found: object) -> object:
    """Returns what equals an answer: the matrix product of a batch rounds otherwise than that of one query."""
    return replace(found, scores=pytest.approx(found.scores, abs=1e-5)) if isinstance(found, Retrieval) else found


def failed(error: TwoTowerError) -> object:
    return type(error), error.message, {name: v for name, v in vars(error).items() if name != "request_id"}


def test_answers_and_errors_are_those_of_single_calls(addresses: tuple[str, str]) -> None:
    calls: list[int] = []

    def note(client: Any) -> None:
        send = client._shared._send
        client._shared._send = lambda call: (calls.append(call.query_count), send(call))[1]

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(ASKED)
    def check(asked: list[tuple[str, Any, dict[str, Any]]]) -> None:
        with ThreadPoolExecutor(len(asked)) as threads:
            together = list(
                threads.map(lambda each: outcome(lambda: getattr(shared, each[0])(each[1], **each[2])), asked)
            )
        by_tasks = asyncio.run(ask_all(asked))
        for each, in_thread, in_task in zip(asked, together, by_tasks, strict=True):
            expected = expected_from(outcome(functools.partial(getattr(alone, each[0]), each[1], **each[2])))
            assert in_thread == expected, each
            assert in_task == expected, each

    async def ask_all(asked: list[tuple[str, Any, dict[str, Any]]]) -> list[object]:
        async with AsyncRetriever(*addresses, timeout_s=30, coalesce=True) as retriever:
            note(retriever.ann)
            tasks = [getattr(retriever, each[0])(each[1], **each[2]) for each in asked]
            found = await asyncio.gather(*tasks, return_exceptions=True)
        for each in found:
            if not isinstance(each, (Retrieval, TwoTowerError)):
                raise each
        return [each if isinstance(each, Retrieval) else failed(each) for each in found]

    with (
        Retriever(*addresses, timeout_s=30, coalesce=False) as alone,
        Retriever(*addresses, timeout_s=30, coalesce=True) as shared,
    ):
        note(shared.query_tower)
        note(shared.ann)
        check()
    assert sum(count > 1 for count in calls) >= 20


def test_nothing_fails_or_is_mixed_while_models_are_swapped(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.store.root, tmp_path / "store")
    store = FolderStore(tmp_path / "store")
    first, second = shop.versions
    queries = [{"history": [f"p{user % 40:02}", f"p{user * 7 % 40:02}"], "age": 20.0 + user} for user in range(50)]
    offline = functools.cache(lambda version: OfflineBundle(store, version, queries))
    wrong = list[object]()
    stop = threading.Event()

    async def ask(retriever: AsyncRetriever, caller: int) -> int:
        count = 0
        while not stop.is_set():
            number = (caller + count) % len(queries)
            if caller == 0:  # one caller sends what is refused
                with pytest.raises(InvalidRequest, match="unknown"):
                    await retriever.retrieve({"unknown": "feature"})
            else:
                found = await retriever.retrieve(queries[number], K)
                if not offline(found.bundle_version).agrees(number, found.item_ids, found.scores):
                    wrong.append((number, found))
            count += 1
        return count

    async def ask_all() -> int:
        async with AsyncRetriever(*addresses, timeout_s=30) as retriever:
            return sum(await asyncio.gather(*(ask(retriever, caller) for caller in range(CALLERS))))

    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        addresses = f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}"
        for service in (query_tower, ann):
            service.wait_for_bundle(first)
        with (
            Retriever(*addresses, timeout_s=30) as retriever,
            ThreadPoolExecutor(1) as loop,
            Load(retriever, queries, offline, clients=CALLERS, k=K) as load,
        ):
            by_tasks = loop.submit(lambda: asyncio.run(ask_all()))
            try:
                for swap in range(SWAPS):
                    version = (second, first)[swap % 2]
                    store.promote(version)
                    for service in (query_tower, ann):
                        service.wait_for_bundle(version)
                    before = load.tally.bundles[version]
                    wait_for(lambda: load.tally.bundles[version] >= before + 100, f"100 answers of {version}")  # noqa: B023
                wait_for(lambda: load.tally.sent >= CALLS, f"{CALLS} calls", timeout_s=300)
            finally:
                stop.set()
            asked = by_tasks.result()
    assert wrong == []
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)
    assert load.tally.bundles.keys() == {first, second}
    assert asked > CALLERS
