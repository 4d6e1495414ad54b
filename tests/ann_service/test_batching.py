"""Searches of several calls, in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import Counter
from structlog.testing import capture_logs

from ann_service import batching
from ann_service.batching import Batcher
from ann_service.bitsets import Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.plan import SearchPlan
from ann_service.search import find
from ann_service.servicer import AnnServicer
from query_tower_service.config import QueryTowerConfig
from retrieval.index.hits import Hits
from retrieval.index.scan import scan
from retrieval.serving.rpc.errors import DeadlinePassed
from retrieval.serving.runtime.metrics import Metrics
from tests.worlds import item_table, unit_vectors
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = 40_000
VECTORS = unit_vectors(ITEMS, 5, 16)
OTHER_VECTORS = unit_vectors(ITEMS, 7, 16)
QUERIES = unit_vectors(30, 6, 16)
TABLE = item_table(ITEMS)
K = 10
NONE = np.zeros(0, np.int64)
INDEX_ROWS = list(range(K))  # what the index below finds, as no scan would


class Gated:
    """An index that finds rows which no scan would, once the gate is open."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Semaphore(0)
        self.asked: list[int] = []
        self.gate.set()

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        self.asked.append(len(queries))
        self.reached.release()
        assert self.gate.wait(10)
        if budget == BROKEN or queries.dtype == object:  # of which no scan makes a matrix product either
            raise OSError("the disk is gone")
        return [Hits(np.arange(k), np.ones(k, np.float32))] * len(queries)

    def cost(self, k: int, budget: int) -> float:
        return float(budget)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        return budget


DEAR, CHEAP, BROKEN = ITEMS - 1, 2000, 1999
"""Budgets: with the first, a scan that several searches share costs less than the index."""


class Waiting:
    """A caller, until it cancels or its deadline passes."""

    def __init__(self, remaining_s: float = 30.0) -> None:
        self.active, self.remaining_s = True, remaining_s

    def is_active(self) -> bool:
        return self.active

    def time_remaining(self) -> float:
        return self.remaining_s


def catalogue(vectors: np.ndarray = VECTORS) -> tuple[Catalogue, Gated]:
    index = Gated()
    manifest: Any = SimpleNamespace(
        item_count=ITEMS,
        dimension=16,
        index=SimpleNamespace(search_budget=DEAR),
        model_version="model",
        bundle_version="bundle",
    )
    return Catalogue(manifest, TABLE, vectors, index), index


def plan(number: int, **fields: Any) -> SearchPlan:
    plain = {"k": K, "allowed": None, "excluded": NONE, "min_score": None, "exact": False, "budget": DEAR}
    return SearchPlan(**{"query": QUERIES[number], **plain, **fields})


class Runs:
    """A batcher, and calls to it in threads of their own."""

    def __init__(self, pool: ThreadPoolExecutor, runners: int, max_batch_size: int, batch_timeout_s: float) -> None:
        self.counter = Counter("batched", "", registry=None)
        self.batcher = Batcher(runners, max_batch_size, batch_timeout_s, self.counter)
        self._pool = pool

    @property
    def batched(self) -> float:
        return next(iter(self.counter.collect())).samples[0].value

    def start(self, where: Catalogue, *plans: SearchPlan, caller: Waiting | None = None) -> Future[list[Hits]]:
        """Calls, and returns once the call is in the queue, or is no longer."""
        before = len(self.batcher._queue)
        answer = self._pool.submit(self.batcher.search, where, plans, caller or Waiting())
        until(lambda: len(self.batcher._queue) > before or answer.done())
        return answer


@contextmanager
def held(
    where: Catalogue, index: Gated, runners: int = 1, max_batch_size: int = 1000, batch_timeout_s: float = 0.0
) -> Iterator[Runs]:
    """Keeps every runner busy in the index meanwhile, so that all others have to wait."""
    with ThreadPoolExecutor(16) as pool:
        runs = Runs(pool, runners, max_batch_size, batch_timeout_s)
        index.gate.clear()
        first = []
        for _ in range(runners):
            first.append(pool.submit(runs.batcher.search, where, [plan(0)], Waiting()))
            assert index.reached.acquire(timeout=10)
        try:
            yield runs
        finally:
            index.gate.set()
        assert [rows(each) for each in first] == [INDEX_ROWS] * runners
    assert not runs.batcher._queue
    assert runs.batcher._free_runners == runners


def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the condition did not come true within ten seconds")


def exact(number: int, vectors: np.ndarray = VECTORS, k: int = K) -> list[int]:
    return scan(vectors, QUERIES[number : number + 1], k)[0].rows.tolist()


def rows(answer: Future[list[Hits]]) -> list[int]:
    return answer.result(10)[0].rows.tolist()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The `k` of every search, batch by batch, as they are run."""
    run, seen = batching.rank_all, list[list[int]]()

    def rank_all(where: Catalogue, plans: Sequence[SearchPlan]) -> list[Hits]:
        seen.append([each.k for each in plans])
        return run(where, plans)

    monkeypatch.setattr(batching, "rank_all", rank_all)
    return seen


def test_a_call_alone_runs_at_once() -> None:
    where, index = catalogue()
    batcher = Batcher(1, 1000, 0.0, Counter("batched", "", registry=None))
    for number in range(3):
        assert batcher.search(where, [plan(number)], Waiting())[0].rows.tolist() == INDEX_ROWS
    assert index.asked == [1, 1, 1]


def test_what_arrives_while_a_batch_runs_goes_together_in_the_next() -> None:
    where, index = catalogue()
    ks = [10, 3, 100, 1, 10]
    with held(where, index) as runs:
        answers = [runs.start(where, plan(n, k=k)) for n, k in enumerate(ks, 1)]
        batch = runs.start(where, plan(6), plan(7))
    assert [rows(answer) for answer in answers] == [exact(n, k=k) for n, k in enumerate(ks, 1)]
    assert [hits.rows.tolist() for hits in batch.result(10)] == [exact(6), exact(7)]
    assert index.asked == [1]  # the one that they waited for; one scan answered the others
    assert runs.batched == 7


def test_each_search_of_a_batch_finds_what_it_finds_alone() -> None:
    where, index = catalogue()
    near = [exact(n, k=200) for n in range(7)]
    half = Matches.of(pack(np.arange(ITEMS) % 2 == 0), ITEMS, with_rows=True)
    plans = [
        plan(1, excluded=np.sort(near[1][:3])),
        plan(2, excluded=np.sort(near[2])),  # more than are looked at beyond the k wanted
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
    # Alone, with `exact`: what the shared scan finds. The cheap one goes through the index, in a batch too.
    expected = [find(where, each._replace(exact=True))[0].tolist() for each in plans[:-1]]
    assert [rows(answer) for answer in answers] == [*expected, INDEX_ROWS]
    assert expected[0] == near[1][3:13]
    assert expected[5] == near[6][100:103]
    assert runs.batched == 9


def test_batches_keep_the_order_of_arrival_and_the_largest_size(batches: list[list[int]]) -> None:
    where, index = catalogue()
    with held(where, index, max_batch_size=3) as runs:
        answers = [
            runs.start(where, *(plan(1, k=k) for k in ks)) for ks in ([1], [2], [3, 4], [5], [6, 7, 8, 9], [11], [12])
        ]
    for answer in answers:
        answer.result(10)
    # A call stays whole: two do not fit behind two, and a call of more than three is a batch of its own.
    assert batches == [[K], [1, 2], [3, 4, 5], [6, 7, 8, 9], [11, 12]]


def test_a_batch_that_is_not_full_waits_for_the_timeout(batches: list[list[int]]) -> None:
    where, _ = catalogue()
    with ThreadPoolExecutor(3) as pool:
        runs = Runs(pool, 1, 3, 30.0)
        answers = [runs.start(where, plan(n, k=n)) for n in (1, 2)]
        assert batches == []
        answers.append(pool.submit(runs.batcher.search, where, [plan(3, k=3)], Waiting()))  # now it is full
        assert [rows(answer) for answer in answers] == [exact(n, k=n) for n in (1, 2, 3)]
    assert batches == [[1, 2, 3]]
    soon = Batcher(1, 3, 0.01, runs.counter)
    assert len(soon.search(where, [plan(1)], Waiting())[0].rows) == K  # alone, once the timeout is over


def test_a_bundle_that_was_opened_meanwhile_answers_those_who_asked_it() -> None:
    (old, index), (new, _) = catalogue(), catalogue(OTHER_VECTORS)
    with held(old, index) as runs:
        answers = [runs.start(new if number % 2 else old, plan(number)) for number in range(1, 7)]
    for number, answer in enumerate(answers, 1):
        assert rows(answer) == exact(number, OTHER_VECTORS if number % 2 else VECTORS)
    assert runs.batched == 6


@pytest.mark.parametrize("at_fault", [0, 1, 2])
def test_a_search_that_fails_fails_alone(at_fault: int) -> None:
    where, index = catalogue()
    with capture_logs() as logs, held(where, index) as runs:
        answers: list[Future[list[Hits]]] = []
        for number in range(3):
            fault = {"query": QUERIES[1].astype(object)} if number == at_fault else {}
            answers.append(runs.start(where, plan(number + 1, **fault)))
    assert isinstance(answers.pop(at_fault).exception(10), OSError)
    assert [rows(answer) for answer in answers] == [INDEX_ROWS] * 2  # alone: the index
    assert runs.batched == 0
    assert [log["calls"] for log in logs] == [3]
    with pytest.raises(OSError, match="the disk"):
        runs.batcher.search(where, [plan(1, budget=BROKEN)], Waiting())
    assert runs.batcher.search(where, [plan(6)], Waiting())[0].rows.tolist() == INDEX_ROWS  # the runner is free again


def test_who_cancelled_or_whose_deadline_passed_is_dropped_before_its_search(batches: list[list[int]]) -> None:
    where, index = catalogue()
    cancelled, late, waiting = Waiting(), Waiting(), Waiting()
    with held(where, index) as runs:
        # The one that is told to lead the next batch, and one that waits in the queue.
        calls = [runs.start(where, plan(1, k=n), caller=who) for n, who in enumerate((cancelled, waiting, late), 1)]
        cancelled.active, late.remaining_s = False, 0.0
        expired = runs.start(where, plan(1, k=4), caller=Waiting(0.0))
        assert isinstance(expired.exception(10), DeadlinePassed)  # while the batch before still runs
        assert len(runs.batcher._queue) == 3
    assert [type(call.exception(10)) for call in calls] == [DeadlinePassed, type(None), DeadlinePassed]
    assert batches == [[K], [2]]


def test_as_many_batches_run_at_once_as_there_are_runners(batches: list[list[int]]) -> None:
    where, index = catalogue()
    with held(where, index, runners=2) as runs:
        answers = [runs.start(where, plan(n, k=n)) for n in (1, 2, 3)]
        assert index.asked == [1, 1]
    for n, answer in enumerate(answers, 1):
        # Both batches end at once: one of the three may be alone in a batch.
        assert rows(answer) in (exact(n, k=n), list(range(n)))
    assert sorted(k for batch in batches for k in batch) == [1, 2, 3, K, K]


@pytest.mark.parametrize("runners", [1, 2, 3])
@pytest.mark.parametrize("max_batch_size", [2, 1000])
def test_no_call_is_lost_among_many_threads(runners: int, max_batch_size: int) -> None:
    where, _ = catalogue()
    batcher = Batcher(runners, max_batch_size, 0.0, Counter("batched", "", registry=None))
    nearest = [hits.rows.tolist() for hits in scan(VECTORS, QUERIES, 20)]

    def ask(number: int) -> bool:
        if number % 11 == 0:
            with pytest.raises(OSError, match="disk"):
                batcher.search(where, [plan(0, query=QUERIES[0].astype(object))], Waiting())
            return True
        caller = Waiting()
        caller.active = number % 7 != 0
        query, k = number % len(QUERIES), 1 + number % 20
        try:
            answer = batcher.search(where, [plan(query, k=k)], caller)[0].rows.tolist()
        except DeadlinePassed:
            return not caller.active
        return caller.active and answer in (nearest[query][:k], list(range(k)))

    with capture_logs(), ThreadPoolExecutor(16) as pool:  # printing that a batch failed takes long
        assert all(pool.map(ask, range(400)))
    assert not batcher._queue
    assert batcher._free_runners == runners


def test_calls_of_the_service_share_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ann_service.servicer.own_cores", lambda: 1)
    where, index = catalogue()
    metrics = Metrics()
    live: Any = SimpleNamespace(snapshot=SimpleNamespace(open=[SimpleNamespace(bundle=where)]))
    service = AnnServicer(live, AnnConfig(store=tmp_path), metrics)
    context: Any = Waiting()

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


@pytest.mark.parametrize(("cores", "threads", "expected"), [(1, "auto", 16), (2, "auto", 2), (1, 3, 3), (2, 5, 5)])
def test_a_process_on_one_core_has_threads_for_calls_that_wait(
    cores: int, threads: Any, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ann_service.config.own_cores", lambda: cores)
    assert AnnConfig(store=tmp_path, threads=threads).thread_count == expected
    assert QueryTowerConfig(store=tmp_path, threads=threads).thread_count == (2 if threads == "auto" else threads)
