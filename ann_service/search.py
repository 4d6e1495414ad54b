"""Runs searches by embedding: with the index where that is quicker, otherwise with the exact scan.

```
exact, or a scan of the allowed items costs less ─────────────────► exact scan of the allowed items
else: index, over-fetching ─► drop the items that are not allowed ─┬─ k left ──► done
          ▲                                                        └─ fewer ───► fetch more, by the share that was
          └──────────────────────────────────────────────────────────────┘       allowed; if that costs too much, scan
```

The index fetches more than k nearest items, with a search budget raised in proportion to the number fetched. The
allowed items among the fetched ones are the nearest allowed items. So a filtered search has the recall that the index
has for the number fetched, whether or not the filter correlates with the query, and returns k items if k items match.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ann_service.bitsets import MAX_GATHERED_SHARE
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from retrieval.index.hits import Hits
from retrieval.index.leaving_out import LEAST_INDEX_COST, first_fetch, next_fetch, with_margin
from retrieval.index.scan import scan_steps
from retrieval.steps import Steps, run_to_end

_CACHED_ROW_COST = 1.5
_UNCACHED_ROW_COST = 2.0
_CACHED_ROWS = 16_384
"""Costs of a gathered row, in rows that are read in sequence (benchmarks/index/filters.py).

The first `_CACHED_ROWS` of them cost less, because the caches of the processor hold many of them.
"""

_INDEX_SHARE = 0.2
"""Largest cost of the index in a filtered search, as a share of the scan, because a scan may still have to follow."""
_SHARED_SCAN = 0.2
"""Cost of a scan for each of many searches that share it, as a share of a scan for one, which waits for memory."""

_COST_A_STEP = 50_000.0
"""Cost of the searches that one call of the index runs, in rows that are read in sequence: one to two milliseconds."""

_NO_HITS = Hits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def run(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Hits]:
    """Returns the hits of each plan at once; see `run_steps`."""
    return run_to_end(run_steps(catalogue, plans))


def run_steps(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> Steps[list[Hits]]:
    """Returns the hits of each plan: rows, [n] int64, and scores, [n] float32, best first, ties by row, n at most k.

    Searches with the same number to fetch share calls of the index, searches with the same filter share a scan.
    """
    if len(plans) == 1 and (hits := (yield from _run_unrestricted(catalogue, plans[0]))) is not None:
        return [hits]
    group_sizes = Counter(map(_filter_key, plans))
    searches = [_Search(catalogue, plan, group_sizes[_filter_key(plan)]) for plan in plans]
    while fetching := [search for search in searches if search.fetch]:
        groups: defaultdict[tuple[int, int], list[_Search]] = defaultdict(list)
        for search in fetching:
            groups[search.fetch, search.budget].append(search)
        for (fetch, budget), group in groups.items():
            at_once = max(1, int(_COST_A_STEP / catalogue.index.cost(fetch, budget)))
            for start in range(0, len(group), at_once):
                part = group[start : start + at_once]
                queries = np.stack([search.plan.query for search in part])  # [n, dimension]
                for search, nearest in zip(part, catalogue.index.search(queries, fetch, budget), strict=True):
                    search.take_from_index(nearest)
                yield
    yield from _scan_all([search for search in searches if search.hits is None], catalogue.vectors)
    return [search.hits or _NO_HITS for search in searches]


def at_least(hits: Hits, min_score: float | None) -> Hits:
    """Returns the hits with a score of at least `min_score`; all hits if it is None."""
    if min_score is None:
        return hits
    rows, scores = hits
    kept = scores >= min_score
    return Hits(rows[kept], scores[kept])


def _run_unrestricted(catalogue: Catalogue, plan: SearchPlan) -> Steps[Hits | None]:
    """Returns the hits of a search that leaves nothing out and goes to the index; None for any other search.

    Most requests are one such search. `run` would return the same without this function, in more steps: after the index
    has read a hundred megabytes, the code and data of each step are no longer in the caches.
    """
    item_count = catalogue.manifest.item_count
    result_count = min(plan.k, item_count)
    if not plan.is_unrestricted or plan.exact or item_count <= LEAST_INDEX_COST:
        return None
    if catalogue.index.cost(result_count, plan.budget) > item_count:  # a scan costs less
        return None
    queries = plan.query[np.newaxis]
    [hits] = catalogue.index.search(queries, result_count, plan.budget)
    if len(hits.rows) < result_count:
        [hits] = yield from scan_steps(catalogue.vectors, queries, result_count)
    return hits


class _Search:
    """A search in progress.

    Attributes:
        plan: The search.
        result_count: Number of hits to return: k, or fewer if fewer items are allowed.
        fetch: Number of items to fetch from the index next; 0: the index is not needed any more.
        budget: Search budget for `fetch`.
        hits: Final hits; None: an exact scan has to find them, unless the index is needed next.
    """

    def __init__(self, catalogue: Catalogue, plan: SearchPlan, group_size: int) -> None:
        """Decides whether to start with the index.

        Args:
            catalogue: catalogue to search.
            plan: the search.
            group_size: number of searches that would share a scan, this one included.
        """
        match_count = catalogue.manifest.item_count if plan.allowed is None else plan.allowed.count
        self.plan = plan
        self.hits: Hits | None = None
        self.fetch = self.budget = 0
        self._group_size = group_size
        self._index = catalogue.index
        self._item_count = catalogue.manifest.item_count
        self._spent = 0.0
        excluded = plan.excluded
        self._excluded_count = len(excluded)
        if plan.allowed is not None and len(excluded):
            self._excluded_count = int(np.count_nonzero(plan.allowed.contains(excluded)))
        self._allowed_count = match_count - self._excluded_count
        self.result_count = min(plan.k, self._allowed_count)
        self._is_restricted = plan.allowed is not None or self._excluded_count > 0 or plan.min_score is not None
        if not self.result_count:
            self.hits = _NO_HITS
        elif not plan.exact and self._index_cost_limit() > LEAST_INDEX_COST:
            self._fetch_next(*self._first_fetch(match_count))

    def take_from_index(self, nearest: Hits) -> None:
        """Sets `hits` from the items that the index fetched, if enough of them are allowed.

        Otherwise sets `fetch` to fetch more, unless a scan is cheaper. If neither is set, a scan has to follow.
        """
        rows, scores = nearest
        fetched, self.fetch = self.fetch, 0
        if len(rows) >= self.result_count and not self._is_restricted:
            self.hits = Hits(rows[: self.result_count], scores[: self.result_count])
            return
        kept = np.ones(len(rows), dtype=bool) if self.plan.allowed is None else self.plan.allowed.contains(rows)
        kept &= ~self.plan.is_excluded(rows)
        kept_count = int(np.count_nonzero(kept))
        if kept_count < self.result_count and len(rows) == fetched < self._item_count:
            self._fetch_next(*next_fetch(self.result_count, fetched, kept_count))
            return
        rows, scores = at_least(Hits(rows[kept], scores[kept]), self.plan.min_score)
        if len(rows) >= self.result_count:
            self.hits = Hits(rows[: self.result_count], scores[: self.result_count])

    @property
    def scan_count(self) -> int:
        """Number of items to scan for, so that enough are left without the excluded ones; only without a filter."""
        return self._first_fetch(self._item_count)[0]

    def take_from_scan(self, nearest: Hits) -> None:
        """Sets `hits` from the `scan_count` exact nearest items, unless too many of those are excluded."""
        rows, scores = nearest
        kept = ~self.plan.is_excluded(rows)
        if np.count_nonzero(kept) >= self.result_count:
            kept_hits = Hits(rows[kept][: self.result_count], scores[kept][: self.result_count])
            self.hits = at_least(kept_hits, self.plan.min_score)

    def _first_fetch(self, match_count: int) -> tuple[int, float]:
        """Returns the number of items to fetch first, with a margin, and the number expected to suffice, without one.

        Args:
            match_count: number of items that match the filter; without a filter, the number of all items.
        """
        count = first_fetch(self.result_count, self._excluded_count, match_count)
        if self.plan.allowed is None:
            return count, self.result_count
        per_match = self._item_count / match_count
        return math.ceil(with_margin(count) * per_match), count * per_match

    def _fetch_next(self, fetch: int, expected_among: float) -> None:
        """Sets `fetch` and `budget`, unless all uses of the index would together cost too much compared with a scan.

        The budget is chosen for the mean of `fetch` and `expected_among`.

        Args:
            fetch: number of items to fetch, with a margin so that enough of them are allowed.
            expected_among: number of nearest items among which enough allowed ones are expected; no margin.
        """
        fetch = min(fetch, self._item_count)
        budget = self._index.raise_budget(self.plan.budget, self.result_count, math.ceil((expected_among + fetch) / 2))
        self._spent += self._index.cost(fetch, budget)
        if self._spent <= self._index_cost_limit():
            self.fetch, self.budget = fetch, budget

    def _index_cost_limit(self) -> float:
        """Returns the largest total cost of the index in this search; 1 is the time to read one row in sequence."""
        if self.plan.allowed is None:  # exclusions alone rarely leave too few, so a scan rarely has to follow
            return self._item_count * (_SHARED_SCAN + (1.0 - _SHARED_SCAN) / self._group_size)
        if _scans_all_rows(self.plan):
            return _INDEX_SHARE * self._item_count
        cached = min(self._allowed_count, _CACHED_ROWS)
        gathering = _CACHED_ROW_COST * cached + _UNCACHED_ROW_COST * (self._allowed_count - cached)
        return _INDEX_SHARE * min(self._item_count, gathering)


def _scan_all(searches: Sequence[_Search], vectors: np.ndarray) -> Steps[None]:
    """Sets the hits of searches by exact scans; searches with the same filter share a scan if they can."""
    groups: defaultdict[int, list[_Search]] = defaultdict(list)
    for search in searches:
        groups[_filter_key(search.plan)].append(search)
    for group in groups.values():
        if group[0].plan.allowed is None and len(group) > 1:
            queries = np.stack([search.plan.query for search in group])  # [n, dimension]
            counts = [search.scan_count for search in group]
            for search, nearest in zip(group, (yield from scan_steps(vectors, queries, counts)), strict=True):
                search.take_from_scan(nearest)
        yield from _scan_allowed([search for search in group if search.hits is None], vectors)


def _scan_allowed(searches: Sequence[_Search], vectors: np.ndarray) -> Steps[None]:
    """Sets the hits of searches with the same filter, by one scan of the allowed items for each set of exclusions."""
    groups: defaultdict[int, list[_Search]] = defaultdict(list)
    for search in searches:
        excluded = search.plan.excluded
        groups[id(excluded) if len(excluded) else 0].append(search)
    for group in groups.values():
        queries = np.stack([search.plan.query for search in group])  # [n, dimension]
        allowed, hidden = _rows_to_scan(group[0].plan, len(vectors))
        counts = [search.result_count for search in group]
        found = yield from scan_steps(vectors, queries, counts, allowed=allowed, hidden=hidden)
        for search, hits in zip(group, found, strict=True):
            search.hits = at_least(hits, search.plan.min_score)


def _filter_key(plan: SearchPlan) -> int:
    """Returns a key that searches with the same filter share."""
    return id(plan.allowed)


def _rows_to_scan(plan: SearchPlan, item_count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns which rows to scan, as the arguments `allowed` and `hidden` of `retrieval.index.scan.scan`.

    Returns:
        allowed: [m] integers, ascending, rows to scan; None: all rows except the hidden ones.
        hidden: [item_count] bool, whether to leave out the row; None: no row is left out.
    """
    excluded = plan.excluded if len(plan.excluded) else None
    if plan.allowed is None:
        if excluded is None:
            return None, None
        hidden = np.zeros(item_count, dtype=bool)
        hidden[excluded] = True
        return None, hidden
    if _scans_all_rows(plan):
        hidden = plan.allowed.complement
        if excluded is not None:
            hidden[excluded] = True
        return None, hidden
    rows = plan.allowed.rows
    return rows if excluded is None else rows[~plan.is_excluded(rows)], None


def _scans_all_rows(plan: SearchPlan) -> bool:
    """Returns whether a scan reads all rows in sequence instead of gathering the allowed ones."""
    return plan.allowed is None or plan.allowed.count > MAX_GATHERED_SHARE * plan.allowed.item_count
