"""Searches that leave items out, such as those that a user knows: many queries at once, by index or exact scan.

A search fetches more than k nearest items from the index, and drops those to leave out. The ANN service decides by the
same rules how many to fetch, and whether to scan, for a request with one search and no filter: so it has the same hits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from retrieval.index.hits import Hits
from retrieval.index.registry import Index
from retrieval.index.scan import scan

LEAST_INDEX_COST = 1500.0
"""No index answers at a lower cost, in rows. If even this is too much, nothing is estimated."""
_FEW_EXCLUSIONS = 32
"""Exclusions that are always expected to be near the query."""
_MAX_HISTORY = 1000
"""Exclusions beyond this number are not the history of a user."""
_NO_HITS = Hits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def is_any(rows: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Returns which of `rows`, [n] int64, are in `excluded`, [m] int64 ascending: [n] bool."""
    if not len(excluded):
        return np.zeros(len(rows), dtype=bool)
    positions = np.minimum(np.searchsorted(excluded, rows), len(excluded) - 1)
    return excluded[positions] == rows  # [n]


def first_fetch(count: int, excluded_count: int, match_count: int) -> int:
    """Returns the number of nearest matching items of which `count` are expected to be left without the excluded ones.

    Items that a user interacted with are near the query of this user. If they are few, all of them may be among the
    nearest, and fetching so many more costs less than a second search. If they are many, they are assumed to be spread
    evenly.

    Args:
        count: number of items to be left.
        excluded_count: number of matching items to leave out.
        match_count: number of items that match the filter; without a filter, the number of all items.
    """
    if not excluded_count:
        return count
    even = count * excluded_count / match_count
    few = max(_FEW_EXCLUSIONS, count) if excluded_count <= _MAX_HISTORY else _FEW_EXCLUSIONS
    return count + min(excluded_count, max(few, math.ceil(even + 2 * math.sqrt(even))))


def next_fetch(count: int, fetched: int, kept_count: int) -> tuple[int, float]:
    """Returns how many items to fetch after too few were kept, by the share that was kept, with and without a margin.

    Args:
        count: number of items to be left.
        fetched: number of items that were fetched.
        kept_count: number of these that were kept.
    """
    per_kept = fetched / max(1, kept_count)
    return max(2 * fetched, math.ceil(with_margin(count) * per_kept)), count * per_kept


def with_margin(count: int) -> float:
    """Returns the number of allowed items to aim at, so that the index rarely fetches fewer than `count` of them.

    The number exceeds `count` by three standard deviations.
    """
    return count + 3 * math.sqrt(count) + 3


def search_without(
    index: Index, vectors: np.ndarray, queries: np.ndarray, k: int, budget: int, excluded: Sequence[np.ndarray]
) -> list[Hits]:
    """Returns the `k` nearest items of each query without those to leave out; fewer only if no more are left.

    Args:
        index: index over `vectors`.
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] float32, unit length.
        k: number of hits of each query, at least 1.
        budget: search budget of the index for `k` items.
        excluded: for each query the rows to leave out, [m] int64, distinct, ascending.
    """
    searches = [_Search(index, len(vectors), k, budget, rows) for rows in excluded]
    while True:
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, search in enumerate(searches):
            if search.fetch:
                groups[search.fetch, search.budget].append(number)
        if not groups:
            break
        for (fetch, raised), numbers in groups.items():
            for number, nearest in zip(numbers, index.search(queries[numbers], fetch, raised), strict=True):
                searches[number].take(nearest)
    scanned = [number for number, search in enumerate(searches) if search.hits is None]
    if scanned:
        counts = [searches[number].result_count + len(searches[number].excluded) for number in scanned]
        for number, nearest in zip(scanned, scan(vectors, queries[scanned], counts), strict=True):
            searches[number].keep(nearest)
    return [search.hits or _NO_HITS for search in searches]


class _Search:
    """One search in progress.

    Attributes:
        excluded: Rows to leave out, [m] int64, ascending.
        result_count: Number of hits to return: k, or fewer if fewer items are left.
        fetch: Number of items to fetch from the index next; 0: the index is not needed any more.
        budget: Search budget for `fetch`.
        hits: Final hits; None: an exact scan has to find them, unless the index is needed next.
    """

    __slots__ = (
        "_index",
        "_item_count",
        "_plain_budget",
        "_spent",
        "budget",
        "excluded",
        "fetch",
        "hits",
        "result_count",
    )

    def __init__(self, index: Index, item_count: int, k: int, budget: int, excluded: np.ndarray) -> None:
        self._index, self._item_count, self._plain_budget = index, item_count, budget
        self._spent = 0.0
        self.excluded = excluded
        self.result_count = min(k, item_count - len(excluded))
        self.hits: Hits | None = None if self.result_count else _NO_HITS
        self.fetch = self.budget = 0
        if self.result_count and item_count > LEAST_INDEX_COST:
            self._fetch_next(first_fetch(self.result_count, len(excluded), item_count), self.result_count)

    def take(self, nearest: Hits) -> None:
        """Sets `hits` from the items that the index fetched, or what to fetch next; neither if a scan has to follow."""
        fetched, self.fetch = self.fetch, 0
        kept_count = self.keep(nearest)
        if kept_count < self.result_count and len(nearest.rows) == fetched < self._item_count:
            self._fetch_next(*next_fetch(self.result_count, fetched, kept_count))

    def keep(self, nearest: Hits) -> int:
        """Returns how many of some items are not to leave out; if these are enough, sets `hits` to the best of them."""
        rows, scores = nearest
        if len(self.excluded):
            kept = ~is_any(rows, self.excluded)
            rows, scores = rows[kept], scores[kept]
        if len(rows) >= self.result_count:
            self.hits = Hits(rows[: self.result_count], scores[: self.result_count])
        return len(rows)

    def _fetch_next(self, fetch: int, expected_among: float) -> None:
        """Sets `fetch` and `budget`, unless all uses of the index would together cost more than a scan.

        The budget is chosen for the mean of `fetch` and `expected_among`.
        """
        fetch = min(fetch, self._item_count)
        among = math.ceil((expected_among + fetch) / 2)
        budget = self._index.raise_budget(self._plain_budget, self.result_count, among)
        self._spent += self._index.cost(fetch, budget)
        if self._spent <= self._item_count:
            self.fetch, self.budget = fetch, budget
