"""A batcher whose runners a test can hold, and a catalogue on which index and scan give different hits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client import Counter

from ann_service.batching import Batcher
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from retrieval.index.hits import Hits
from retrieval.index.scan import scan
from tests.worlds import item_table, unit_vectors

ITEMS = 40_000
VECTORS = unit_vectors(ITEMS, 5, 16)
OTHER_VECTORS = unit_vectors(ITEMS, 7, 16)
QUERIES = unit_vectors(30, 6, 16)
TABLE = item_table(ITEMS)
K = 10
NONE = np.zeros(0, np.int64)
INDEX_ROWS = list(range(K))  # hits of `GatedIndex`, which differ from those of a scan


class GatedIndex:
    """An index whose searches wait until its gate is open, and then return the first rows."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Semaphore(0)
        self.batch_sizes: list[int] = []
        self.gate.set()

    def search(self, queries: np.ndarray, k: int, budget: int) -> list[Hits]:
        self.batch_sizes.append(len(queries))
        self.reached.release()
        assert self.gate.wait(10)
        if budget == BROKEN or queries.dtype == object:  # a scan of such queries fails too
            raise OSError("the disk is gone")
        return [Hits(np.arange(k), np.ones(k, np.float32))] * len(queries)

    def cost(self, k: int, budget: int) -> float:
        return float(budget)

    def raise_budget(self, budget: int, k: int, fetch: int) -> int:
        return budget


EXPENSIVE, CHEAP, BROKEN = ITEMS - 1, 2000, 1999
"""Search budgets. With the first, a scan that several searches share costs less than the index."""


class CallerContext:
    """The context of a call whose caller waits, until it cancels or its deadline passes."""

    def __init__(self, remaining_s: float = 30.0) -> None:
        self.active, self.remaining_s = True, remaining_s

    def is_active(self) -> bool:
        return self.active

    def time_remaining(self) -> float:
        return self.remaining_s


def catalogue(vectors: np.ndarray = VECTORS) -> tuple[Catalogue, GatedIndex]:
    index = GatedIndex()
    manifest: Any = SimpleNamespace(
        item_count=ITEMS,
        dimension=16,
        index=SimpleNamespace(search_budget=EXPENSIVE),
        model_version="model",
        bundle_version="bundle",
    )
    return Catalogue(manifest, TABLE, vectors, index), index


def plan(number: int, **fields: Any) -> SearchPlan:
    plain = {"k": K, "allowed": None, "excluded": NONE, "min_score": None, "exact": False, "budget": EXPENSIVE}
    return SearchPlan(**{"query": QUERIES[number], **plain, **fields})


class Runs:
    """A batcher, and calls to it in threads of their own."""

    def __init__(self, pool: ThreadPoolExecutor, runners: int, max_batch_size: int, batch_timeout_s: float) -> None:
        self.counter = Counter("batched", "", registry=None)
        self.batcher = Batcher(runners, max_batch_size, batch_timeout_s, self.counter)
        self._pool = pool

    @property
    def batched(self) -> float:
        """Number of searches that shared a batch with another call."""
        return next(iter(self.counter.collect())).samples[0].value

    def start(self, where: Catalogue, *plans: SearchPlan, context: CallerContext | None = None) -> Future[list[Hits]]:
        """Submits a call in a thread of its own, and returns once it is in the queue or done."""
        before = len(self.batcher._queue)
        answer = self._pool.submit(self.batcher.submit, where, plans, context or CallerContext())
        until(lambda: len(self.batcher._queue) > before or answer.done())
        return answer


@contextmanager
def held(
    where: Catalogue, index: GatedIndex, runners: int = 1, max_batch_size: int = 1000, batch_timeout_s: float = 0.0
) -> Iterator[Runs]:
    """Keeps every runner busy in the index until the end of the context, so that further calls have to wait."""
    with ThreadPoolExecutor(16) as pool:
        runs = Runs(pool, runners, max_batch_size, batch_timeout_s)
        index.gate.clear()
        first = []
        for _ in range(runners):
            first.append(pool.submit(runs.batcher.submit, where, [plan(0)], CallerContext()))
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
