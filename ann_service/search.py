"""How a search is answered: the index where that is enough, the exact scan where it is not.

```
exact, or few items allowed ───────────────────────────────► exact scan over the allowed
else: index, over-fetched ─► drop what is not allowed ─┬─ k left ─► done
                                                       └─ fewer ──► exact scan over the allowed
```

So k items come back wherever k items match, whatever the index misses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.index import scan

_SCAN_AT_MOST = 2000
"""Where a filter or exclusions leave so many items or fewer, a scan is cheaper than an over-fetching walk."""

_OVER_FETCH = 1.5
"""More than the expected number of candidates, since matches are not spread evenly."""

_FETCH_SHARE = 0.1
"""Where this share of the catalogue would have to be fetched, a scan is cheaper."""


@dataclass(frozen=True, eq=False)
class SearchPlan:
    """A search, validated.

    Attributes:
        query: [dimension] float32, unit length.
        k: how many items, at least 1.
        allowed: [item_count] bool, what the filter lets through; None: all.
        excluded: [n] int64, distinct rows to leave out, ascending.
        min_score: the least score; None: no limit.
        exact: scan.
        budget: nodes of the index to inspect.
        return_attributes: names of attributes to send along.
    """

    query: np.ndarray
    k: int
    allowed: np.ndarray | None
    excluded: np.ndarray
    min_score: float | None
    exact: bool
    budget: int
    return_attributes: tuple[str, ...] = ()


def find(catalogue: Catalogue, plan: SearchPlan) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows found, [n] int64, and their scores, [n] float32: best first, ties by row, n at most k."""
    item_count = catalogue.manifest.item_count
    mask = _allowed_mask(plan, item_count)
    allowed_count = item_count if mask is None else int(np.count_nonzero(mask))
    if allowed_count == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    wanted = min(plan.k, allowed_count)
    fetch = _fetch_count(plan, wanted, item_count)
    few_allowed = mask is not None and allowed_count <= _SCAN_AT_MOST
    if not plan.exact and not few_allowed and fetch <= item_count * _FETCH_SHARE:
        rows, scores = catalogue.index.search(plan.query, fetch, plan.budget)
        if mask is not None:
            kept = mask[rows]
            rows, scores = rows[kept], scores[kept]
        rows, scores = _at_least(rows, scores, plan.min_score)
        if len(rows) >= wanted:
            return rows[:wanted], scores[:wanted]
    allowed = None if mask is None else np.flatnonzero(mask)
    return _at_least(*scan(catalogue.vectors, plan.query, wanted, allowed), plan.min_score)


def _allowed_mask(plan: SearchPlan, item_count: int) -> np.ndarray | None:
    if plan.allowed is None and not len(plan.excluded):
        return None
    mask = np.ones(item_count, dtype=bool) if plan.allowed is None else plan.allowed.copy()
    mask[plan.excluded] = False
    return mask


def _fetch_count(plan: SearchPlan, wanted: int, item_count: int) -> int:
    # Excluded items tend to be near the query, as what the user has seen is: each may take a place.
    fetch = wanted + len(plan.excluded)
    if plan.allowed is not None:
        fetch = math.ceil(fetch * item_count / max(1, int(np.count_nonzero(plan.allowed))) * _OVER_FETCH)
    return min(fetch, item_count)


def _at_least(rows: np.ndarray, scores: np.ndarray, min_score: float | None) -> tuple[np.ndarray, np.ndarray]:
    if min_score is None:
        return rows, scores
    kept = scores >= min_score
    return rows[kept], scores[kept]
