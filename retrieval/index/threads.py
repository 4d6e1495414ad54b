"""A thread pool for searches that release the GIL."""

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
    """Returns the number of threads that share a batch of searches: ``OMP_NUM_THREADS``, or one for each core.

    NumPy's BLAS and FAISS read the same variable. Set it to 1 to run one process for each core.
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(value)) if value.isdecimal() else len(os.sched_getaffinity(0))


def map_over_threads(search: Callable[[S], T], queries: Sequence[S]) -> list[T]:
    """Returns the results of `search` for all queries, in their order.

    Args:
        search: function that answers one query. It should release the GIL, since otherwise threads gain nothing.
        queries: queries to answer.
    """
    count = min(thread_count(), len(queries))
    if count <= 1:
        return [search(query) for query in queries]
    # Each thread gets a contiguous part: handing over queries one by one costs more than a short search.
    bounds = [len(queries) * part // count for part in range(count + 1)]
    parts = [queries[start:stop] for start, stop in pairwise(bounds)]

    def search_part(part: Sequence[S]) -> list[T]:
        return [search(query) for query in part]

    others = _pool().map(search_part, parts[1:])
    return [*search_part(parts[0]), *chain.from_iterable(others)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), "search")
