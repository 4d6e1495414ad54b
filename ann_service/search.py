"""How searches are answered: by the index where that is quicker, by the exact scan where it is not.

```
exact, or the scan over the allowed costs less ───────────► exact scan over the allowed
else: index, over-fetched ─► drop what is not allowed ─┬─ k left ──► done
          ▲                                            └─ fewer ───► fetch more, by the share that was allowed
          └──────────────────────────────────────────────────┘       or, where that costs too much, scan
```

What is fetched are the nearest items of all, with a budget raised in proportion; of those, the allowed ones are the
nearest allowed ones. So recall under a filter is that of the index at the number fetched, however a filter goes
together with what is near, and k items come back wherever k items match.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ann_service.bitsets import FEW_SHARE
from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from retrieval.index.hits import Hits
from retrieval.index.scan import scan

_GATHERED_ROW = 1.5
_FAR_ROW = 2.0
_NEAR_ROWS = 16_384
"""The cost of a row that is gathered, in rows that are read one after another (benchmarks/index/filters.py).

The more there are, the fewer are in a cache of the processor still: the first so many cost less than the rest.
"""

_INDEX_SHARE = 0.2
"""A filtered search tries the index where that costs no more than this share of the scan: it may have to scan after."""

_SHARED_SCAN = 0.2
"""A scan for many searches at once costs each this share of a scan for one alone, which waits for the memory."""

_LEAST_COST = 1500.0
"""No index answers in less, so that nothing is worked out where even that is too much."""


def find(catalogue: Catalogue, plan: SearchPlan) -> Hits:
    """Returns the hits of a plan, at most k; of rows that tie, the smaller comes first."""
    return find_all(catalogue, [plan])[0]


def find_all(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Hits]:
    """Returns what `find` does, for each plan; those alike go through the index, or the scan, together."""
    if len(plans) == 1 and (plain := _find_plain(catalogue, plans[0])) is not None:
        return [plain]
    together_scanned = Counter(map(_scan_key, plans))
    searches = [_Search(catalogue, plan, together_scanned[_scan_key(plan)]) for plan in plans]
    while asking := [search for search in searches if search.fetch]:
        together: defaultdict[tuple[int, int], list[_Search]] = defaultdict(list)
        for search in asking:
            together[search.fetch, search.budget].append(search)
        for (fetch, budget), alike in together.items():
            first = alike[0].plan.query[np.newaxis]
            queries = first if len(alike) == 1 else np.stack([search.plan.query for search in alike])  # [n, dimension]
            for search, hits in zip(alike, catalogue.index.search(queries, fetch, budget), strict=True):
                search.take(hits)
    _scan_rest([search for search in searches if search.hits is None], catalogue.vectors)
    return [search.hits or _NOTHING for search in searches]


def scan_cost(rows: int, together: int) -> float:
    """Returns what a scan of so many rows costs each of the searches that share it."""
    return rows * (_SHARED_SCAN + (1.0 - _SHARED_SCAN) / together)


def _find_plain(catalogue: Catalogue, plan: SearchPlan) -> Hits | None:
    """Returns what the index finds where it answers at once and nothing is left out: most calls. None: elsewhere.

    What the rest of `find_all` would return, in fewer steps: after the index has read a hundred megabytes, each step
    finds its code and data gone from the caches.
    """
    item_count = catalogue.manifest.item_count
    wanted = min(plan.k, item_count)
    if not plan.is_plain or plan.exact or item_count <= _LEAST_COST:
        return None
    if catalogue.index.cost(wanted, plan.budget) > item_count:  # a scan costs less
        return None
    queries = plan.query[np.newaxis]
    hits = catalogue.index.search(queries, wanted, plan.budget)[0]
    return hits if len(hits.rows) == wanted else scan(catalogue.vectors, queries, wanted)[0]


class _Search:
    """One search on its way: `fetch` says what to ask of the index next, 0 that it is through with it."""

    def __init__(self, catalogue: Catalogue, plan: SearchPlan, alike: int) -> None:
        matching = catalogue.manifest.item_count if plan.allowed is None else plan.allowed.count
        self.plan = plan
        self._alike = alike  # searches of the call that one scan would answer, this one among them
        self.hits: Hits | None = None
        self.fetch = self.budget = 0
        self._index = catalogue.index
        self._item_count = catalogue.manifest.item_count
        self._spent = 0.0
        excluded = plan.excluded
        self._excluded_count = len(excluded)
        if plan.allowed is not None and len(excluded):
            self._excluded_count = int(np.count_nonzero(plan.allowed.contain(excluded)))
        self._allowed_count = matching - self._excluded_count
        self.wanted = min(plan.k, self._allowed_count)
        self._leaves_out = plan.allowed is not None or self._excluded_count > 0 or plan.min_score is not None
        if not self.wanted:
            self.hits = _NOTHING
        elif not plan.exact and self._limit() > _LEAST_COST:
            self._ask_for(*self._first_fetch(matching))

    def take(self, hits: Hits) -> None:
        """Takes what the index returned for `fetch`: enough, or it is asked for more, or the scan has to do it."""
        rows, scores = hits
        asked, self.fetch = self.fetch, 0
        if len(rows) >= self.wanted and not self._leaves_out:
            self.hits = Hits(rows[: self.wanted], scores[: self.wanted])
            return
        kept = np.ones(len(rows), dtype=bool) if self.plan.allowed is None else self.plan.allowed.contain(rows)
        kept &= ~self.plan.leaves_out(rows)
        kept_count = int(np.count_nonzero(kept))
        if kept_count < self.wanted and len(rows) == asked < self._item_count:
            # By the share that was allowed here, near the query, with a margin.
            per_kept = asked / max(1, kept_count)
            self._ask_for(max(2 * asked, math.ceil(_with_margin(self.wanted) * per_kept)), self.wanted * per_kept)
            return
        rows, scores = at_least(rows[kept], scores[kept], self.plan.min_score)
        if len(rows) >= self.wanted:
            self.hits = Hits(rows[: self.wanted], scores[: self.wanted])

    @property
    def fetch_to_scan(self) -> int:
        """How many of the exact nearest items to look at, for enough that are not left out; without a filter."""
        return self._first_fetch(self._item_count)[0]

    def take_nearest(self, hits: Hits) -> None:
        """Takes the exact nearest items: enough, or what is left out were too many, and a scan has to pass over it."""
        rows, scores = hits
        kept = ~self.plan.leaves_out(rows)
        if np.count_nonzero(kept) >= self.wanted:
            rows, scores = rows[kept][: self.wanted], scores[kept][: self.wanted]
            self.hits = at_least(rows, scores, self.plan.min_score)

    def _first_fetch(self, matching: int) -> tuple[int, float]:
        """Returns how many to fetch, and how many of these the wanted ones are expected to stand among."""
        wanted = self.wanted
        if self._excluded_count:
            # What a user has met is near what suits. Few: leave a place for each, for a second search costs as much as
            # the first. Many: as they are if spread evenly.
            even = wanted * self._excluded_count / matching
            few = max(_FEW_EXCLUSIONS, wanted) if self._excluded_count <= _MET else _FEW_EXCLUSIONS
            wanted += min(self._excluded_count, max(few, math.ceil(even + 2 * math.sqrt(even))))
        if self.plan.allowed is None:
            return wanted, self.wanted
        per_match = self._item_count / matching
        return math.ceil(_with_margin(wanted) * per_match), wanted * per_match

    def _ask_for(self, fetch: int, among: float) -> None:
        """Asks the index next, unless that, with what it has cost so far, is too much beside a scan.

        Args:
            fetch: how many, with a margin so that enough are allowed.
            among: how many without it: the budget has to find these well, and half of the margin.
        """
        fetch = min(fetch, self._item_count)
        budget = self._index.raise_budget(self.plan.budget, self.wanted, math.ceil((among + fetch) / 2))
        self._spent += self._index.cost(fetch, budget)
        if self._spent <= self._limit():
            self.fetch, self.budget = fetch, budget

    def _limit(self) -> float:
        """Returns what the index may cost, in rows that are read one after another."""
        if self.plan.allowed is None:  # exclusions alone seldom leave too few, so that a scan seldom has to follow
            return scan_cost(self._item_count, self._alike)
        if _reads_all(self.plan):
            return _INDEX_SHARE * self._item_count
        near = min(self._allowed_count, _NEAR_ROWS)
        gathered = _GATHERED_ROW * near + _FAR_ROW * (self._allowed_count - near)
        return _INDEX_SHARE * min(self._item_count, gathered)


def _scan_rest(searches: Sequence[_Search], vectors: np.ndarray) -> None:
    """Answers by the exact scan; searches with the same filter share a matrix product."""
    together: defaultdict[int, list[_Search]] = defaultdict(list)
    for search in searches:
        together[_scan_key(search.plan)].append(search)
    for alike in together.values():
        if alike[0].plan.allowed is None and len(alike) > 1:
            queries = np.stack([search.plan.query for search in alike])  # [n, dimension]
            for search, hits in zip(
                alike, scan(vectors, queries, [search.fetch_to_scan for search in alike]), strict=True
            ):
                search.take_nearest(hits)
        _scan_allowed([search for search in alike if search.hits is None], vectors)


def _scan_allowed(searches: Sequence[_Search], vectors: np.ndarray) -> None:
    """Answers searches with the same filter by scans that leave out what is excluded, one for each exclusions."""
    together: defaultdict[int, list[_Search]] = defaultdict(list)
    for search in searches:
        excluded = search.plan.excluded
        together[id(excluded) if len(excluded) else 0].append(search)
    for alike in together.values():
        queries = np.stack([search.plan.query for search in alike])  # [n, dimension]
        allowed, hidden = _rows_to_scan(alike[0].plan, len(vectors))
        ks = [search.wanted for search in alike]
        for search, (rows, scores) in zip(
            alike, scan(vectors, queries, ks, allowed=allowed, hidden=hidden), strict=True
        ):
            search.hits = at_least(rows, scores, search.plan.min_score)


def _scan_key(plan: SearchPlan) -> int:
    """Returns what searches that one scan answers have in common: the filter."""
    return id(plan.allowed)


def _rows_to_scan(plan: SearchPlan, item_count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the rows to look at; or None, and which of all to leave out, [item_count] bool (None: none)."""
    excluded = plan.excluded if len(plan.excluded) else None
    if plan.allowed is None:
        if excluded is None:
            return None, None
        hidden = np.zeros(item_count, dtype=bool)
        hidden[excluded] = True
        return None, hidden
    if _reads_all(plan):
        hidden = plan.allowed.others
        if excluded is not None:
            hidden[excluded] = True
        return None, hidden
    rows = plan.allowed.rows
    return rows if excluded is None else rows[~plan.leaves_out(rows)], None


def _reads_all(plan: SearchPlan) -> bool:
    return plan.allowed is None or plan.allowed.count > FEW_SHARE * plan.allowed.item_count


def _with_margin(wanted: int) -> float:
    """Returns how many allowed ones to expect, so that it is rarely fewer than `wanted`: three standard deviations."""
    return wanted + 3 * math.sqrt(wanted) + 3


def at_least(rows: np.ndarray, scores: np.ndarray, min_score: float | None) -> Hits:
    """Returns those of a result with at least this score; None: all."""
    if min_score is None:
        return Hits(rows, scores)
    kept = scores >= min_score
    return Hits(rows[kept], scores[kept])


_FEW_EXCLUSIONS = 32
_MET = 1000
"""More than this are no history of a user."""
_NOTHING = Hits(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
