"""Batching of the searches of several calls."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import Counter
from structlog.testing import capture_logs

from ann_service import fusion
from ann_service.batching import Batcher
from ann_service.bitsets import Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.plan import SearchPlan
from ann_service.search import run
from ann_service.servicer import AnnServicer
from retrieval.index.hits import Hits
from retrieval.index.scan import scan
from retrieval.serving.rpc.errors import DeadlinePassed
from retrieval.serving.runtime.metrics import Metrics
from tests.ann_service.held_batches import (
    BROKEN,
    CHEAP,
    INDEX_ROWS,
    ITEMS,
    OTHER_VECTORS,
    QUERIES,
    VECTORS,
    CallerContext,
    K,
    Runs,
    catalogue,
    exact,
    held,
    plan,
    rows,
    until,
)
from two_tower.ann.v1 import ann_service_pb2 as pb


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The `k` of every search, batch by batch, as they are run."""
    rank, seen = fusion.rank, list[list[int]]()

    def record(where: Catalogue, plans: Sequence[SearchPlan]) -> list[Hits]:
        seen.append([each.k for each in plans])
        return rank(where, plans)

    monkeypatch.setattr(fusion, "rank", record)
    return seen


def test_a_single_call_runs_at_once() -> None:
    where, index = catalogue()
    batcher = Batcher(1, 1000, 0.0, Counter("batched", "", registry=None))
    for number in range(3):
        assert batcher.submit(where, [plan(number)], CallerContext())[0].rows.tolist() == INDEX_ROWS
    assert index.batch_sizes == [1, 1, 1]


def test_calls_that_arrive_while_a_batch_runs_share_the_next_one() -> None:
    where, index = catalogue()
    ks = [10, 3, 100, 1, 10]
    with held(where, index) as runs:
        answers = [runs.start(where, plan(n, k=k)) for n, k in enumerate(ks, 1)]
        batch = runs.start(where, plan(6), plan(7))
    assert [rows(answer) for answer in answers] == [exact(n, k=k) for n, k in enumerate(ks, 1)]
    assert [hits.rows.tolist() for hits in batch.result(10)] == [exact(6), exact(7)]
    assert index.batch_sizes == [1]  # the call that the others waited for; one scan answered the others
    assert runs.batched == 7


def test_each_search_of_a_batch_returns_what_it_returns_alone() -> None:
    where, index = catalogue()
    near = [exact(n, k=200) for n in range(7)]
    half = Matches.of(pack(np.arange(ITEMS) % 2 == 0), ITEMS, with_rows=True)
    plans = [
        plan(1, excluded=np.sort(near[1][:3])),
        plan(2, excluded=np.sort(near[2])),  # more than the exact neighbours that the shared scan returns beyond k
        plan(3, excluded=np.arange(0, ITEMS, 2)),
        plan(4, min_score=float(VECTORS[near[4][4]] @ QUERIES[4]) - 1e-4),
        plan(5, excluded=np.sort(near[5][:1])),
        plan(6, excluded=np.delete(np.arange(ITEMS), near[6][100:103])),  # three items are left
        plan(7, allowed=half),
        plan(8, k=1001),
        plan(9, budget=CHEAP),
    ]
    with held(where, index) as runs:
        answers = [runs.start(where, each) for each in plans]
    # A single search with `exact` returns what the shared scan returns. The cheap search uses the index in a batch too.
    expected = [run(where, [each._replace(exact=True)])[0].rows.tolist() for each in plans[:-1]]
    assert [rows(answer) for answer in answers] == [*expected, INDEX_ROWS]
    assert expected[0] == near[1][3:13]
    assert expected[5] == near[6][100:103]
    assert runs.batched == 9


def test_batches_keep_the_order_of_arrival_and_the_size_limit(batches: list[list[int]]) -> None:
    where, index = catalogue()
    with held(where, index, max_batch_size=3) as runs:
        answers = [
            runs.start(where, *(plan(1, k=k) for k in ks)) for ks in ([1], [2], [3, 4], [5], [6, 7, 8, 9], [11], [12])
        ]
    for answer in answers:
        answer.result(10)
    # A call is never split: two searches do not fit behind two, and a call of more than three is a batch of its own.
    assert batches == [[K], [1, 2], [3, 4, 5], [6, 7, 8, 9], [11, 12]]


def test_a_batch_that_is_not_full_waits_for_the_timeout(batches: list[list[int]]) -> None:
    where, _ = catalogue()
    with ThreadPoolExecutor(3) as pool:
        runs = Runs(pool, 1, 3, 30.0)
        answers = [runs.start(where, plan(n, k=n)) for n in (1, 2)]
        assert batches == []
        answers.append(pool.submit(runs.batcher.submit, where, [plan(3, k=3)], CallerContext()))  # now it is full
        assert [rows(answer) for answer in answers] == [exact(n, k=n) for n in (1, 2, 3)]
    assert batches == [[1, 2, 3]]
    soon = Batcher(1, 3, 0.01, runs.counter)
    assert len(soon.submit(where, [plan(1)], CallerContext())[0].rows) == K  # alone, once the timeout is over


def test_calls_to_different_bundles_in_a_batch_are_answered_from_their_own() -> None:
    (old, index), (new, _) = catalogue(), catalogue(OTHER_VECTORS)
    with held(old, index) as runs:
        answers = [runs.start(new if number % 2 else old, plan(number)) for number in range(1, 7)]
    for number, answer in enumerate(answers, 1):
        assert rows(answer) == exact(number, OTHER_VECTORS if number % 2 else VECTORS)
    assert runs.batched == 6


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_search_that_fails_fails_alone(failing: int) -> None:
    where, index = catalogue()
    with capture_logs() as logs, held(where, index) as runs:
        answers: list[Future[list[Hits]]] = []
        for number in range(3):
            fault = {"query": QUERIES[1].astype(object)} if number == failing else {}
            answers.append(runs.start(where, plan(number + 1, **fault)))
    assert isinstance(answers.pop(failing).exception(10), OSError)
    assert [rows(answer) for answer in answers] == [INDEX_ROWS] * 2  # alone: the index
    assert runs.batched == 0
    assert [log["calls"] for log in logs] == [3]
    with pytest.raises(OSError, match="the disk"):
        runs.batcher.submit(where, [plan(1, budget=BROKEN)], CallerContext())
    assert (
        runs.batcher.submit(where, [plan(6)], CallerContext())[0].rows.tolist() == INDEX_ROWS
    )  # the runner is free again


def test_a_cancelled_or_expired_call_is_dropped_before_its_search(batches: list[list[int]]) -> None:
    where, index = catalogue()
    cancelled, late, waiting = CallerContext(), CallerContext(), CallerContext()
    with held(where, index) as runs:
        # The first one is told to lead the next batch, the others wait in the queue.
        calls = [runs.start(where, plan(1, k=n), context=each) for n, each in enumerate((cancelled, waiting, late), 1)]
        cancelled.active, late.remaining_s = False, 0.0
        expired = runs.start(where, plan(1, k=4), context=CallerContext(0.0))
        assert isinstance(expired.exception(10), DeadlinePassed)  # while the previous batch still runs
        assert len(runs.batcher._queue) == 3
    assert [type(call.exception(10)) for call in calls] == [DeadlinePassed, type(None), DeadlinePassed]
    assert batches == [[K], [2]]


def test_as_many_batches_run_at_once_as_there_are_runners(batches: list[list[int]]) -> None:
    where, index = catalogue()
    with held(where, index, runners=2) as runs:
        answers = [runs.start(where, plan(n, k=n)) for n in (1, 2, 3)]
        assert index.batch_sizes == [1, 1]
    for n, answer in enumerate(answers, 1):
        # Both batches end at the same time, so one of the three calls may be a batch of its own.
        assert rows(answer) in (exact(n, k=n), list(range(n)))
    assert sorted(k for batch in batches for k in batch) == [1, 2, 3, K, K]


@pytest.mark.parametrize("runners", [1, 2, 3])
@pytest.mark.parametrize("max_batch_size", [2, 1000])
def test_no_call_is_lost_among_many_threads(runners: int, max_batch_size: int) -> None:
    where, _ = catalogue()
    batcher = Batcher(runners, max_batch_size, 0.0, Counter("batched", "", registry=None))
    nearest = [hits.rows.tolist() for hits in scan(VECTORS, QUERIES, 20)]

    def is_answered_rightly(number: int) -> bool:
        if number % 11 == 0:
            with pytest.raises(OSError, match="disk"):
                batcher.submit(where, [plan(0, query=QUERIES[0].astype(object))], CallerContext())
            return True
        context = CallerContext()
        context.active = number % 7 != 0
        query, k = number % len(QUERIES), 1 + number % 20
        try:
            hits = batcher.submit(where, [plan(query, k=k)], context)[0].rows.tolist()
        except DeadlinePassed:
            return not context.active
        return context.active and hits in (nearest[query][:k], list(range(k)))

    with capture_logs(), ThreadPoolExecutor(16) as pool:  # printing the logs of failed batches takes long
        assert all(pool.map(is_answered_rightly, range(400)))
    assert not batcher._queue
    assert batcher._free_runners == runners


def test_calls_of_the_service_share_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ann_service.servicer.own_cores", lambda: 1)
    where, index = catalogue()
    metrics = Metrics()
    open_bundles: Any = SimpleNamespace(snapshot=SimpleNamespace(open=[SimpleNamespace(bundle=where)]))
    service = AnnServicer(open_bundles, AnnConfig(store=tmp_path), metrics)
    context: Any = CallerContext()

    def ask(number: int, *excluded: int) -> list[str]:
        search = pb.Search(embedding=pb.Embedding(values=QUERIES[number].tolist()), k=K)
        search.exclude_item_ids.extend(f"i{row}" for row in excluded)
        request = pb.SearchItemsRequest(searches=[search], model_version="model")
        return list(service.SearchItems(request, context).results[0].item_ids)

    with ThreadPoolExecutor(8) as pool:
        index.gate.clear()
        first = pool.submit(ask, 0)
        assert index.reached.acquire(timeout=10)
        best = exact(4, k=K + 2)
        others = [pool.submit(ask, 1), pool.submit(ask, 2), pool.submit(ask, 4, *best[:2])]
        until(lambda: len(service._batcher._queue) == 3)
        index.gate.set()
    assert first.result(10) == [f"i{row}" for row in INDEX_ROWS]
    assert [other.result(10) for other in others] == [
        [f"i{row}" for row in expected] for expected in (exact(1), exact(2), best[2:])
    ]
    assert metrics.registry.get_sample_value("two_tower_batched_searches_total") == 3


@pytest.mark.parametrize("runners", [1, 2])
def test_an_exception_of_any_kind_costs_no_runner(runners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    where, _ = catalogue()
    batcher = Batcher(runners, 1, 0.0, Counter("batched", "", registry=None))

    def leave(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(fusion, "rank", leave)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(batcher.submit, where, [plan(number % 8)], CallerContext()) for number in range(40)]
        assert {type(call.exception(10)) for call in calls} == {SystemExit}
    assert not batcher._queue
    assert batcher._free_runners == runners
