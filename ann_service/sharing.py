"""Which searches of several calls share a scan.

```
call ─► turn free? ─ yes ─► search ─► pass the turn on ─► answer
            │ no                            │
            └─► wait ◄──────────────────────┘  to the one that waited longest, which answers all that wait with it
```

A scan for several searches at once costs each far less than a search alone, through an index that has to inspect many
candidates too (`ann_service.search`). Under load there are several: those that came while another was answered. Alone,
a search starts at once. What would gain nothing waits for no turn.

Callers in a loop come back once they are answered, one after the other: a turn that began with the first of them would
leave the rest to the next. So a turn that follows on others gathers for a moment, until as many are there as were
before, unless that was in vain of late (`_Gathering`).
"""

from __future__ import annotations

import threading
import time
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

_MOST_SHARED = 1000
"""Whoever wants more items than this would hold up the others."""

_BACK_WITHIN = 0.75
"""Callers in a loop come back one after the other, each within this share of the time of a search alone."""

_LONGEST_PAUSE_S = 0.01
"""Nobody is waited for longer, whatever held up the last search."""

_MOST_MISSES = 4
"""Where gathering is in vain, one turn in 16 tries it."""


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
        self._gathering = _Gathering(threads if at_once == 1 else 1)

    def rank_all(self, catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Found]:
        """Returns what `ann_service.hybrid.rank_all` does; the exact nearest items where a scan was shared.

        Raises:
            Exception: what that raised, to all whose scan it was.
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
        if turn.error is not None:
            raise turn.error
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
        """Answers a call whose turn it is, and those that wait with it."""
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
        except BaseException as error:
            for other in others:
                other.error = error
            raise
        finally:
            self._pass_on(1 + len(others), began)
            for other in others:
                other.came.release()
        return [found]

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


class _Gathering:
    """Whether to wait for those who will come back, and for how many. Not safe for several threads."""

    def __init__(self, most: int) -> None:
        """Takes how many can search at once: the threads."""
        self._most = most
        self.expected = 0  # searches, with the one whose turn it is
        self.pause_s = 0.0  # who comes, comes so soon after the one before
        self._until = 0.0  # by then all are back
        self._came: threading.Lock | None = None  # of the one that gathers
        self._complete = False  # all were there, and are searched for
        self._misses = self._to_skip = 0

    def answered(self, count: int, began: float, waiting: int) -> None:
        """Notes that a turn is over: how many it answered, when it began, how many others wait."""
        if self._complete:
            self._note(missed=waiting > 0)
        now = time.monotonic()
        alone_s = (now - began) / (count * scan_cost(1, count))
        self.pause_s = min(_BACK_WITHIN * alone_s, _LONGEST_PAUSE_S)
        self.expected = min(count + waiting, self._most)
        self._until = now + self.expected * self.pause_s

    def after_others(self) -> bool:
        """Returns whether a call that finds a turn free may be the first of several that come back."""
        return self.expected > 1 and time.monotonic() < self._until

    def begin(self, came: threading.Lock, waiting: int) -> bool:
        """Returns whether to wait for `came`, which is released once all are there."""
        if self._came is not None or 1 + waiting >= self.expected:
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._came = came
        return True

    def came(self, waiting: int) -> None:
        """Notes that one more waits."""
        if self._came is not None and 1 + waiting >= self.expected:
            self._came.release()
            self._came = None

    def end(self, came: threading.Lock, waiting: int) -> None:
        """Notes who is there."""
        if self._came is came:
            self._came = None
        self._complete = 1 + waiting >= self.expected
        if not self._complete:
            self._note(missed=True)

    def _note(self, *, missed: bool) -> None:
        """Where it is in vain more often than one time in three, it is tried ever more rarely.

        In vain it is too where others come while all that were expected are searched for: they come when they like, as
        if nobody waited for an answer before the next call.
        """
        self._complete = False
        self._misses = min(self._misses + 2, _MOST_MISSES) if missed else max(self._misses - 1, 0)
        self._to_skip = 2**self._misses - 1


def saved_by_sharing(catalogue: Catalogue, plan: SearchPlan, together: int) -> float:
    """Returns what a search saves as one of `together` that share a scan, in rows of one; 0 or less: nothing."""
    if plan.allowed is not None or plan.interests is not None or plan.text is not None or plan.k > _MOST_SHARED:
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
