"""A pool of threads for searches that run without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


@cache
def thread_count() -> int:
    """Returns over how many threads a batch of searches spreads: ``OMP_NUM_THREADS``, or one for each core.

    One variable for NumPy's BLAS, FAISS and Annoy: who runs a process a core sets it to 1.
    """
    named = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(named)) if named.isdecimal() else len(os.sched_getaffinity(0))


def map_over_threads(search: Callable[[S], T], queries: Sequence[S]) -> list[T]:
    """Returns the answers to all queries, in their order.

    Args:
        search: to call for each; has to let the GIL go, else threads only cost.
        queries: to answer.
    """
    count = min(thread_count(), len(queries))
    if count <= 1:
        return [search(query) for query in queries]
    # A contiguous part for each thread: handing over each query alone costs more than a short search.
    bounds = [len(queries) * part // count for part in range(count + 1)]
    parts = [queries[start:stop] for start, stop in pairwise(bounds)]

    def answer(part: Sequence[S]) -> list[T]:
        return [search(query) for query in part]

    others = _pool().map(answer, parts[1:])
    return [*answer(parts[0]), *chain.from_iterable(others)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), "search")
