"""Which searches of several calls share a scan.

```
call ─► turn free? ─ yes ─► search ─► pass the turn on ─► answer
            │ no                            │
            └─► wait ◄──────────────────────┘  to the one that waited longest, which answers all that wait with it
```

A scan for several searches at once costs each far less than a search alone, through an index that has to inspect many
candidates too (`ann_service.search`). Under load there are several: those that came while another was answered. Alone,
a search starts at once. What would gain nothing waits for no turn.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter

from ann_index.exact import Found
from ann_service.catalogue import Catalogue
from ann_service.hybrid import rank_all
from ann_service.plan import SearchPlan
from ann_service.search import scan_cost

_WORTH_WAITING = 10_000
"""Rows of a scan that take several times as long as it takes a thread to wait and to be woken."""


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

    def rank_all(self, catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Found]:
        """Returns what `ann_service.hybrid.rank_all` does; the exact nearest items where a scan was shared.

        Raises:
            Exception: what that raised, to all whose scan it was.
        """
        if len(plans) > 1 or saved_by_sharing(catalogue, plans[0], self._most) < _WORTH_WAITING:
            return rank_all(catalogue, plans)
        turn = self._queue(catalogue, plans[0])
        if turn is None:
            try:
                return rank_all(catalogue, plans)
            finally:
                self._pass_on()
        turn.came.acquire()
        if turn.error is not None:
            raise turn.error
        return turn.found or self._answer(turn)

    def _queue(self, catalogue: Catalogue, plan: SearchPlan) -> _Turn | None:
        """Returns None where a turn is free, which is taken; else one to wait for."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            turn = _Turn(catalogue, plan)
            turn.came.acquire()
            self._waiting.append(turn)
            return turn

    def _answer(self, turn: _Turn) -> list[Found]:
        """Answers a call whose turn it is, and those that wait with it."""
        others = self._others(turn.catalogue)
        try:
            found, *of_others = rank_all(turn.catalogue, [turn.plan, *(other.plan for other in others)])
            for other, its in zip(others, of_others, strict=True):
                other.found = [its]
        except BaseException as error:
            for other in others:
                other.error = error
            raise
        finally:
            self._pass_on()
            for other in others:
                other.came.release()
        return [found]

    def _others(self, catalogue: Catalogue) -> list[_Turn]:
        """Takes those that wait to search the same catalogue."""
        with self._lock:
            others = [each for each in self._waiting if each.catalogue is catalogue]
            self._waiting = [each for each in self._waiting if each.catalogue is not catalogue]
        if others:
            self._shared.inc(1 + len(others))
        return others

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.pop(0).came.release()
            else:
                self._free += 1


def saved_by_sharing(catalogue: Catalogue, plan: SearchPlan, together: int) -> float:
    """Returns what a search saves as one of `together` that share a scan, in rows of one; 0 or less: nothing."""
    if not plan.is_plain or plan.text is not None:
        return 0.0
    item_count = catalogue.manifest.item_count
    by_index = item_count if plan.exact else catalogue.index.cost(min(plan.k, item_count), plan.budget)
    return min(by_index, item_count) - scan_cost(item_count, together)


@dataclass(eq=False, slots=True)
class _Turn:
    """A call on its way. `came` is released once it is its turn, or once another has answered it too."""

    catalogue: Catalogue
    plan: SearchPlan
    came: threading.Lock = field(default_factory=threading.Lock)
    found: list[Found] | None = None
    error: BaseException | None = None
