"""Which searches of several calls share a scan.

```
call ─► turn free? ─ yes ─► search ─► pass the turn on ─► answer
            │ no                            │
            └─► wait ◄──────────────────────┘  to the one that waited longest, which answers all that wait with it
```

A scan for several searches at once costs each far less than a search alone, through an index that has to inspect many
candidates too (`ann_service.search`). Under load there are several: those that came while another was answered. Alone,
a search starts at once. What would gain nothing waits for no turn.

A turn that follows on others first gathers those who will come back (`ann_service.gathering`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from ann_service.catalogue import Catalogue
from ann_service.fusion import rank_all
from ann_service.gathering import Gathering
from ann_service.plan import SearchPlan
from ann_service.search import scan_cost
from retrieval.index.scan import Found

_log = structlog.get_logger("sharing")

_WORTH_WAITING = 10_000
"""Rows of a scan that take several times as long as it takes a thread to wait and to be woken."""

_MOST_SHARED = 1000
"""Whoever wants more items than this would hold up the others."""


class SharedSearches:
    """Answers the searches of calls; those that may share a scan in turns. Safe for several threads."""

    def __init__(self, at_once: int, threads: int, shared: Counter) -> None:
        """Takes the sizes, and where searches that shared a scan with other calls are counted.

        Args:
            at_once: turns: the cores to search on.
            threads: that answer calls: so many searches may meet.
            shared: counts them.
        """
        self._free = at_once
        self._most = max(1, threads - at_once)  # that may wait while others search
        self._shared = shared
        self._lock = threading.Lock()
        self._waiting: list[_Turn] = []
        # With more turns than one, who comes back is searched for meanwhile.
        self._gathering = Gathering(threads if at_once == 1 else 1)

    def rank_all(self, catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Found]:
        """Returns what `ann_service.fusion.rank_all` does; the exact nearest items where a scan was shared.

        Raises:
            Exception: what that raised, for this call alone.
        """
        if len(plans) > 1 or saved_by_sharing(catalogue, plans[0], self._most) < _WORTH_WAITING:
            return rank_all(catalogue, plans)
        turn = self._queue(catalogue, plans[0])
        if turn is None:
            began = time.monotonic()
            try:
                return rank_all(catalogue, plans)
            finally:
                self._pass_on(1, began)
        turn.came.acquire()
        if turn.is_alone:
            return rank_all(catalogue, plans)
        return turn.found or self._answer(turn)

    def _queue(self, catalogue: Catalogue, plan: SearchPlan) -> _Turn | None:
        """Returns None where a turn is free, which is taken, and nobody is expected; else one to wait for."""
        with self._lock:
            if self._free:
                self._free -= 1
                return _Turn(catalogue, plan) if self._gathering.after_others() else None
            turn = _Turn(catalogue, plan)
            turn.came.acquire()
            self._waiting.append(turn)
            self._gathering.came(len(self._waiting))
            return turn

    def _answer(self, turn: _Turn) -> list[Found]:
        """Answers a call whose turn it is, and those that wait with it; where that fails, each answers itself."""
        others: list[_Turn] = []
        began = time.monotonic()
        try:
            self._gather(turn)
            others = self._others(turn.catalogue)
            began = time.monotonic()
            found, *of_others = rank_all(turn.catalogue, [turn.plan, *(other.plan for other in others)])
            for other, its in zip(others, of_others, strict=True):
                other.found = [its]
            if others:
                self._shared.inc(1 + len(others))
            return [found]
        except Exception:
            if not others:
                raise
            _log.exception("a shared search failed; those that shared it search alone", searches=1 + len(others))
        finally:
            self._pass_on(1 + len(others), began)
            for other in others:
                other.is_alone = other.found is None
                other.came.release()
        return rank_all(turn.catalogue, [turn.plan])

    def _gather(self, turn: _Turn) -> None:
        """Waits for those that are expected, where they would share a scan, as long as they keep coming."""
        with self._lock:
            gathering = self._gathering
            if saved_by_sharing(turn.catalogue, turn.plan, gathering.expected) < _WORTH_WAITING:
                return
            here = len(self._waiting)
            if not gathering.begin(turn.came, here):
                return
        while not turn.came.acquire(timeout=gathering.pause_s):
            with self._lock:
                before, here = here, len(self._waiting)
            if here <= before:
                break
        with self._lock:
            gathering.end(turn.came, len(self._waiting))

    def _others(self, catalogue: Catalogue) -> list[_Turn]:
        """Takes those that wait to search the same catalogue."""
        with self._lock:
            others = [each for each in self._waiting if each.catalogue is catalogue]
            self._waiting = [each for each in self._waiting if each.catalogue is not catalogue]
        return others

    def _pass_on(self, answered: int, began: float) -> None:
        with self._lock:
            self._gathering.answered(answered, began, len(self._waiting))
            if self._waiting:
                self._waiting.pop(0).came.release()
            else:
                self._free += 1


def saved_by_sharing(catalogue: Catalogue, plan: SearchPlan, together: int) -> float:
    """Returns what a search saves as one of `together` that share a scan, in rows of one; 0 or less: nothing."""
    if plan.allowed is not None or plan.text is not None or plan.k > _MOST_SHARED:
        return 0.0
    item_count = catalogue.manifest.item_count
    by_index = item_count if plan.exact else catalogue.index.cost(min(plan.k, item_count), plan.budget)
    return min(by_index, item_count) - scan_cost(item_count, together)


@dataclass(eq=False, slots=True)
class _Turn:
    """A call on its way.

    `came` is released once it is its turn, once another has answered it too, or once that failed: then it is alone.
    """

    catalogue: Catalogue
    plan: SearchPlan
    came: threading.Lock = field(default_factory=threading.Lock)
    found: list[Found] | None = None
    is_alone: bool = False
