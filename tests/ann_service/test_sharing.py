"""Searches of several calls: turns, and scans that they share."""

from __future__ import annotations

import threading
import time
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

from ann_service import gathering
from ann_service.bitsets import Matches, pack
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.plan import SearchPlan
from ann_service.servicer import AnnServicer
from ann_service.sharing import SharedSearches, saved_by_sharing
from query_tower_service.config import QueryTowerConfig
from retrieval.index.scan import Found, scan
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


class Gated:
    """An index that finds rows which no scan would, once the gate is open."""

    pause_s = 0.0

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Semaphore(0)
        self.asked: list[int] = []
        self.gate.set()

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Found]:
        self.asked.append(len(queries))
        self.reached.release()
        assert self.gate.wait(10)
        time.sleep(self.pause_s)
        if budget == BROKEN or queries.dtype == object:  # of which no scan makes a matrix product either
            raise OSError("the disk is gone")
        return [(np.arange(k), np.ones(k, np.float32))] * len(queries)

    def cost(self, k: int, budget: int) -> float:
        return float(budget)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        return budget


DEAR, CHEAP, BROKEN = ITEMS - 1, 2000, 1999


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


def searches(at_once: int = 1, threads: int = 8) -> tuple[SharedSearches, Callable[[], float]]:
    counter = Counter("shared", "", registry=None)
    return SharedSearches(at_once, threads, counter), lambda: next(iter(counter.collect())).samples[0].value


def exact(number: int, vectors: np.ndarray = VECTORS, k: int = K) -> list[int]:
    return scan(vectors, QUERIES[number : number + 1], k)[0][0].tolist()


def rows(answer: Future[list[Found]]) -> list[int]:
    return answer.result(10)[0][0].tolist()


@contextmanager
def held(shared: SharedSearches, where: Catalogue, index: Gated) -> Iterator[tuple[ThreadPoolExecutor, Any]]:
    """Holds a search in the index meanwhile, so that all others have to wait for their turn."""
    with ThreadPoolExecutor(8) as calls:
        index.gate.clear()
        first = calls.submit(shared.rank_all, where, [plan(0)])
        assert index.reached.acquire(timeout=10)
        try:
            yield calls, first
        finally:
            index.gate.set()
        assert rows(first) == list(range(K))  # alone: the index


def wait_for(shared: SharedSearches, count: int) -> None:
    for _ in range(1000):
        if len(shared._waiting) == count:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{len(shared._waiting)} wait, expected {count}")


def test_one_alone_is_answered_by_the_index_at_once() -> None:
    shared, count = searches()
    where, index = catalogue()
    for number in range(3):
        assert shared.rank_all(where, [plan(number)])[0][0].tolist() == list(range(K))
    assert index.asked == [1, 1, 1]
    assert count() == 0


def test_those_that_wait_share_a_scan_and_each_gets_its_own() -> None:
    shared, count = searches()
    where, index = catalogue()
    with held(shared, where, index) as (calls, _):
        ks = [10, 3, 100, 1, 10]
        answers = [calls.submit(shared.rank_all, where, [plan(n, k=k)]) for n, k in enumerate(ks, 1)]
        wait_for(shared, 5)
    assert [rows(answer) for answer in answers] == [exact(n, k=k) for n, k in enumerate(ks, 1)]
    assert index.asked == [1]  # the one that they waited for
    assert count() == 5
    assert shared.rank_all(where, [plan(6)])[0][0].tolist() == list(range(K))  # alone again


def test_what_each_leaves_out_is_its_own_in_a_scan_that_they_share() -> None:
    shared, count = searches()
    where, index = catalogue()
    near = [exact(n, k=200) for n in range(7)]
    with held(shared, where, index) as (calls, _):
        plans = [
            plan(1, excluded=np.sort(near[1][:3])),
            plan(2, excluded=np.sort(near[2])),  # more than are looked at beyond the k wanted
            plan(3, excluded=np.arange(0, ITEMS, 2)),
            plan(4, min_score=float(VECTORS[near[4][4]] @ QUERIES[4]) - 1e-4),
            plan(5, exact=True, excluded=np.sort(near[5][:1])),
            plan(6, excluded=np.delete(np.arange(ITEMS), near[6][100:103])),  # three items are left
        ]
        answers = [calls.submit(shared.rank_all, where, [each]) for each in plans]
        wait_for(shared, 6)
    expected = [near[1][3:13], exact(2, k=210)[200:], odd(3), near[4][:5], near[5][1:11], near[6][100:103]]
    assert [rows(answer) for answer in answers] == expected
    assert index.asked == [1]
    assert count() == 6


def odd(number: int) -> list[int]:
    return [row for row in exact(number, k=200) if row % 2][:K]


def test_a_catalogue_that_came_meanwhile_is_searched_for_those_who_asked_it() -> None:
    shared, count = searches()
    (old, index), (new, _) = catalogue(), catalogue(OTHER_VECTORS)
    with held(shared, old, index) as (calls, _):
        answers = []
        for number in range(1, 7):
            answers.append(calls.submit(shared.rank_all, new if number % 2 else old, [plan(number)]))
            wait_for(shared, number)
    for number, answer in enumerate(answers, 1):
        assert rows(answer) == exact(number, OTHER_VECTORS if number % 2 else VECTORS)
    assert count() == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed": Matches.of(pack(np.arange(ITEMS) % 2 == 0), ITEMS, with_rows=True)},
        {"budget": CHEAP},
        {"k": 1001},
    ],
)
def test_what_gains_nothing_waits_for_nobody(fields: dict[str, Any]) -> None:
    shared, count = searches()
    where, index = catalogue()
    with held(shared, where, index) as (calls, first):
        others = [calls.submit(shared.rank_all, where, [plan(n)]) for n in (2, 3)]
        wait_for(shared, 2)
        special = calls.submit(shared.rank_all, where, [plan(1, **fields)])
        batch = calls.submit(shared.rank_all, where, [plan(n) for n in range(4, 8)])
        if "budget" not in fields and "k" not in fields:
            assert len(rows(special)) == K  # by a scan of its own
        else:
            assert index.reached.acquire(timeout=10)  # the index is asked, though the turn is taken
        assert [found[0].tolist() for found in batch.result(10)] == [exact(n) for n in range(4, 8)]
        assert not any(call.done() for call in (first, *others))
    assert len(rows(special)) == fields.get("k", K)
    assert [rows(other) for other in others] == [exact(2), exact(3)]
    assert count() == 2
    assert not shared._waiting


@pytest.mark.parametrize("at_fault", [0, 1, 2], ids=["whose turn it is", "another", "the last"])
def test_a_failure_is_that_of_the_search_at_fault_alone(at_fault: int) -> None:
    shared, count = searches()
    where, index = catalogue()
    with capture_logs() as logs, held(shared, where, index) as (calls, _):
        answers: list[Future[list[Found]]] = []
        for number in range(3):
            fault = {"query": QUERIES[1].astype(object)} if number == at_fault else {}
            answers.append(calls.submit(shared.rank_all, where, [plan(number + 1, **fault)]))
            wait_for(shared, number + 1)
    assert isinstance(answers.pop(at_fault).exception(10), OSError)
    assert [rows(answer) for answer in answers] == [list(range(K))] * 2  # alone: the index
    assert count() == 0
    assert [log["searches"] for log in logs] == [3]
    with pytest.raises(OSError, match="the disk"):
        shared.rank_all(where, [plan(1, budget=BROKEN)])
    assert shared.rank_all(where, [plan(6)])[0][0].tolist() == list(range(K))  # no turn is lost


def test_as_many_search_at_once_as_there_are_turns() -> None:
    shared, _ = searches(at_once=2)
    where, index = catalogue()
    with held(shared, where, index) as (calls, _):
        second = calls.submit(shared.rank_all, where, [plan(1)])
        assert index.reached.acquire(timeout=10)
        third = calls.submit(shared.rank_all, where, [plan(2)])
        wait_for(shared, 1)
        assert index.asked == [1, 1]
    assert rows(second) == list(range(K))
    assert rows(third) == list(range(K))  # nobody was left to share with


def test_many_threads_all_get_their_own() -> None:
    shared, count = searches(threads=16)
    where, index = catalogue()
    index.pause_s = 0.001

    def ask(number: int) -> bool:
        query = number % len(QUERIES)
        if number % 7 == 0:
            return len(shared.rank_all(where, [plan(query, excluded=np.array([3]))])[0][0]) == K
        found = shared.rank_all(where, [plan(query, k=1 + number % 20)])[0][0].tolist()
        return found in (exact(query, k=1 + number % 20), list(range(1 + number % 20)))

    with ThreadPoolExecutor(16) as calls:
        assert all(calls.map(ask, range(500)))
    assert count() > 0
    assert not shared._waiting
    assert shared._free == 1


def test_callers_who_come_back_are_searched_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_BACK_WITHIN", 1e9)
    monkeypatch.setattr(gathering, "_LONGEST_PAUSE_S", 10.0)
    shared, count = searches()
    where, index = catalogue()

    def loop(caller: int) -> None:
        for _ in range(20):
            assert shared.rank_all(where, [plan(caller)])[0][0].tolist() == exact(caller)

    def first_through_the_index() -> None:
        assert shared.rank_all(where, [plan(9)])[0][0].tolist() == list(range(K))
        loop(9)

    with ThreadPoolExecutor(4) as calls:
        index.gate.clear()
        first = calls.submit(first_through_the_index)
        assert index.reached.acquire(timeout=10)
        others = [calls.submit(loop, caller) for caller in (1, 2, 3)]
        wait_for(shared, 3)
        index.gate.set()
        for call in (first, *others):
            call.result(30)
    # Each time the four of them: had a turn begun with the first one back, the index would have been asked again.
    assert index.asked == [1]
    assert count() == 80


def test_with_several_turns_nobody_waits_for_who_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_BACK_WITHIN", 1e9)
    monkeypatch.setattr(gathering, "_LONGEST_PAUSE_S", 30.0)
    shared, _ = searches(at_once=2)
    where, index = catalogue()
    with held(shared, where, index) as (calls, _):
        second = calls.submit(shared.rank_all, where, [plan(1)])
        assert index.reached.acquire(timeout=10)
        answers = [calls.submit(shared.rank_all, where, [plan(n)]) for n in (2, 3, 4)]
        wait_for(shared, 3)
        index.gate.set()
        for n, answer in enumerate(answers, 2):
            # Both turns end at once: one of the three may be alone in the second of them.
            assert rows(answer) in (exact(n), list(range(K)))
    assert rows(second) == list(range(K))


def test_who_does_not_come_back_is_not_waited_for_longer_than_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_BACK_WITHIN", 1e9)
    monkeypatch.setattr(gathering, "_LONGEST_PAUSE_S", 0.3)
    shared, count = searches()
    where, index = catalogue()
    with held(shared, where, index) as (calls, _):
        answers = [calls.submit(shared.rank_all, where, [plan(n)]) for n in (1, 2)]
        wait_for(shared, 2)
        began = time.monotonic()
    assert 0.2 < time.monotonic() - began < 5.0
    assert [rows(answer) for answer in answers] == [exact(1), exact(2)]  # a third was expected: who was alone before
    assert shared.rank_all(where, [plan(3)])[0][0].tolist() == list(range(K))
    assert count() == 2


def test_what_is_saved_is_what_a_search_alone_costs_less_a_share_of_the_scan() -> None:
    where, _ = catalogue()
    assert saved_by_sharing(where, plan(0), 4) == pytest.approx(ITEMS - 1 - 0.4 * ITEMS)
    assert saved_by_sharing(where, plan(0, budget=2 * ITEMS), 4) == pytest.approx(0.6 * ITEMS)  # it would scan
    assert saved_by_sharing(where, plan(0, budget=CHEAP), 4) < 0
    assert saved_by_sharing(where, plan(0), 1) <= 0


def servicer(where: Catalogue, monkeypatch: pytest.MonkeyPatch) -> tuple[AnnServicer, Callable[[], float]]:
    monkeypatch.setattr("ann_service.servicer.own_cores", lambda: 1)
    metrics = Metrics()
    open_bundles: Any = SimpleNamespace(snapshot=SimpleNamespace(open=[SimpleNamespace(bundle=where)]))
    count = lambda: metrics.registry.get_sample_value("two_tower_shared_searches_total") or 0.0  # noqa: E731
    return AnnServicer(open_bundles, 100, 100, 8, metrics), count


def ask(service: AnnServicer, *numbers: int, exclude: Sequence[int] = ()) -> list[list[str]]:
    embeddings = [pb.Embedding(values=QUERIES[n].tolist()) for n in numbers]
    left_out = [f"i{row}" for row in exclude]
    searches = [pb.Search(embedding=each, k=K, exclude_item_ids=left_out) for each in embeddings]
    context: Any = None
    request = pb.SearchItemsRequest(searches=searches, model_version="model")
    response = service.SearchItems(request, context)
    return [list(result.item_ids) for result in response.results]


def test_calls_with_one_search_share(monkeypatch: pytest.MonkeyPatch) -> None:
    where, index = catalogue()
    service, count = servicer(where, monkeypatch)
    with ThreadPoolExecutor(8) as calls:
        index.gate.clear()
        first = calls.submit(ask, service, 0)
        assert index.reached.acquire(timeout=10)
        others = [calls.submit(ask, service, n) for n in (1, 2, 3)]
        best = exact(4, k=K + 2)
        picky = calls.submit(ask, service, 4, exclude=[*best[:2], *range(ITEMS - 3000, ITEMS - 2000)])
        wait_for(service._searches, 4)
        index.gate.set()
    assert first.result(10) == [[f"i{row}" for row in range(K)]]
    assert [other.result(10) for other in others] == [[[f"i{row}" for row in exact(n)]] for n in (1, 2, 3)]
    kept = [row for row in exact(4, k=300) if row not in best[:2] and not ITEMS - 3000 <= row < ITEMS - 2000]
    assert picky.result(10) == [[f"i{row}" for row in kept[:K]]]
    assert count() == 4


@pytest.mark.parametrize(("cores", "threads", "expected"), [(1, "auto", 16), (2, "auto", 2), (1, 3, 3), (2, 5, 5)])
def test_a_process_on_one_core_has_threads_for_searches_that_wait(
    cores: int, threads: Any, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ann_service.config.own_cores", lambda: cores)
    assert AnnConfig(store=tmp_path, threads=threads).thread_count == expected
    assert QueryTowerConfig(store=tmp_path, threads=threads).thread_count == (2 if threads == "auto" else threads)
