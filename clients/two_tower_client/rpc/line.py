"""The line in which single queries wait, those that are asked for while calls are under way, to share the next call.

::

    ask ─┬─ fewer than `calls_max` calls are under way ─► call alone, at once
         └─ otherwise ─► wait in line ─┬─ its turn ─► call, with those in line that fit ─┬─► answered
                              ▲        └─ taken along by another ────────────────────────┤
                              └───────────────── not answered: ask again ◄───────────────┘

A query has its turn when it is the first in line and a call ends, or a full call waits; or when its patience ends.
A call costs a service about as much as it costs to answer several queries, so callers that wait anyway share calls.
Nobody waits for others to come. The line is served in order of arrival. It does not hang where a call hangs: a query
that has waited for `PATIENCE_SHARE` of its time has its turn, however many calls are under way.

- **Who shares.** Queries of one `Kind`: the same method, model and options. They have to have about as much time left
  (`TIME_FACTOR`), so that nobody's call is judged by the patience of another.
- **Deadlines.** A call has the earliest deadline of those that share it. When that has passed, those with time left are
  asked again. Everybody stops waiting at their own deadline.
- **Errors.** An error that one query may have caused (`_OF_ONE`) is not passed on to the others: a query that it names
  is asked again alone, and the others again together; if it names none, all are asked again alone. So a bad query gets
  the error that it gets in a call of its own, and nobody else notices. Any other error is everybody's.
- **Cancellation.** Who leaves is left out of what follows. A call under way goes on for the others.

This module is pure: it has no clock, no threads and no network. `two_tower_client.rpc.coalescing` makes the calls.
"""

import copy
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from two_tower_client.errors import InvalidRequest, ServerError, TwoTowerError, UnknownItem

Response = TypeVar("Response")

CALLS_MAX = 1
"""Number of calls under way over each connection to each address from which on queries wait."""
QUERIES_MAX = 32
"""Most queries that share a call, unless the service takes fewer. As many do not wait for a call to end."""
BYTES_MAX = 262_144
"""Largest size of their requests together, in bytes."""
PATIENCE_SHARE = 0.125
"""Share of its time that a query waits in line before it has its turn: as long as hedging waits for a replica."""
LIGHT_BYTES = 8_192
"""Largest request that is shared, in bytes: each gets its answer when all are done, so none may cost much more."""
TIME_FACTOR = 2.0
"""Largest ratio of the times that two queries in one call have left."""
_EARLY_S = 0.005
"""Time before a deadline from which on an error counts as that of the deadline, in seconds."""
_OF_ONE = (InvalidRequest, UnknownItem, ServerError)
"""Errors that one query of a call may have caused."""
_POSITION = re.compile(r"\w+\[(\d+)\]")


class Kind(NamedTuple):
    """What queries that share a call have in common.

    Attributes:
        header: Serialized fields of the request beside its queries.
        may_wait: Whether the call waits while no replica can be reached.
        traits: Anything else in which the cost of queries, or their possible errors, differ.
    """

    header: bytes
    may_wait: bool
    traits: tuple[object, ...] = ()


class Asked(Generic[Response]):
    """A query that was asked for.

    Attributes:
        kind: What it has in common with those that share its call.
        body: Serialized request with this query alone, without the header.
        request_id: Request id, of the call if this query is the first in it.
        end_s: Deadline, on the monotonic clock.
        sent_as: Request id of the last call that it was sent in. Empty: not sent yet.
        is_alone: Whether it shares no call any more.
        leads: Whether it is its turn to make a call.
        is_gone: Whether its caller has left.
        response: Response to the call that it was in; None as long as it is not answered.
        position: Its position in that call.
        error: Its error; None if it has none.
        wake: Wakes its caller, once it is settled or it is its turn.
    """

    __slots__ = (
        "body",
        "end_s",
        "error",
        "is_alone",
        "is_gone",
        "kind",
        "leads",
        "position",
        "request_id",
        "response",
        "sent_as",
        "wake",
    )

    def __init__(self, kind: Kind, body: bytes, request_id: str, end_s: float, wake: Callable[[], object]) -> None:
        self.kind, self.body, self.request_id, self.end_s, self.wake = kind, body, request_id, end_s, wake
        self.sent_as = ""
        self.is_alone = self.leads = self.is_gone = False
        self.response: Response | None = None
        self.position = 0
        self.error: TwoTowerError | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self.response is not None or self.error is not None

    def result(self) -> tuple[Response, int]:
        """Returns the response, and the position of the answer in it.

        Raises:
            TwoTowerError: If the query failed.
        """
        if self.response is not None:
            return self.response, self.position
        error, self.error = self.error, None
        assert error is not None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


class Line(Generic[Response]):
    """The queries that wait, in order of arrival, and the number of calls under way. Not safe for several threads.

    Args:
        calls_max: Number of calls under way from which on queries wait for others.
    """

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._under_way = self._turns = 0
        self._queries_max = QUERIES_MAX
        self._waiting = deque[Asked[Response]]()

    def begin(self) -> bool:
        """Returns whether a query may be called alone, at once; then the call is under way until `end`."""
        if self._waiting or self._under_way >= self._calls_max:
            return False
        self._under_way += 1
        return True

    def enter(self, asked: Asked[Response]) -> Asked[Response] | None:
        """Adds a query.

        Returns:
            The query whose turn it is to make a call, this one or the first in line; None if all wait.
        """
        self._waiting.append(asked)
        return self._next()

    def take(self, first: Asked[Response], now_s: float) -> list[Asked[Response]]:
        """Returns the queries of the next call: `first`, and those in line that share it, in order.

        Args:
            first: Query whose turn it is, or one that may be called at once.
            now_s: Time of the monotonic clock.
        """
        if first.leads:
            first.leads = False
            self._turns -= 1
        batch = [first]
        if self._waiting and not first.is_alone:
            left_s, size = first.end_s - now_s, len(first.body)
            kept = list[Asked[Response]]()
            while self._waiting and len(batch) < self._queries_max:
                other = self._waiting.popleft()
                other_s = other.end_s - now_s
                if (
                    other.kind == first.kind
                    and not other.is_alone
                    and left_s <= TIME_FACTOR * other_s
                    and other_s <= TIME_FACTOR * left_s
                    and size + len(other.body) <= BYTES_MAX
                ):
                    batch.append(other)
                    size += len(other.body)
                else:
                    kept.append(other)
            self._waiting.extendleft(reversed(kept))
        for each in batch:
            each.sent_as = first.request_id
        return batch

    def settle(self, batch: Sequence[Asked[Response]], outcome: Response | TwoTowerError, now_s: float) -> None:
        """Gives each query of a call its answer or its error; one that has neither then is to be asked again.

        Args:
            batch: Queries of the call, in order.
            outcome: Response, or error of the call.
            now_s: Time of the monotonic clock.
        """
        if not isinstance(outcome, TwoTowerError):
            for position, each in enumerate(batch):
                each.response, each.position = outcome, position
            return
        for each in self._failed(batch, outcome, now_s):
            each.error = outcome if len(batch) == 1 else _copy(outcome)

    def _failed(
        self, batch: Sequence[Asked[Response]], error: TwoTowerError, now_s: float
    ) -> Iterable[Asked[Response]]:
        """Returns the queries of a failed call that the error is the error of."""
        if len(batch) == 1:
            return batch
        if not isinstance(error, _OF_ONE):
            return [each for each in batch if each.end_s <= now_s + _EARLY_S] or batch
        fields = [field for field, _ in error.violations] if isinstance(error, InvalidRequest) else []
        if fields in (["queries"], ["searches"]):  # too many for the service
            self._queries_max = max(1, len(batch) // 2)
            return ()
        named = {int(match[1]) for match in map(_POSITION.match, fields) if match} & set(range(len(batch)))
        for position, each in enumerate(batch):
            each.is_alone = each.is_alone or not named or position in named
        return ()

    def end(self, batch: Sequence[Asked[Response]] = ()) -> Asked[Response] | None:
        """Ends a call: puts its queries without an outcome back to the head of the line, in order.

        Args:
            batch: Queries of the call. Default: one that was called alone, and so has its outcome.

        Returns:
            The query whose turn it is now, if one waits.
        """
        self._under_way -= 1
        self._waiting.extendleft(each for each in reversed(batch) if not each.is_settled and not each.is_gone)
        return self._next()

    def insist(self, asked: Asked[Response]) -> bool:
        """Gives the turn to a query in line whose patience has ended. Returns whether it was in line."""
        if asked not in self._waiting:
            return False
        self._waiting.remove(asked)
        self._give_turn(asked)
        return True

    @property
    def is_empty(self) -> bool:
        """Whether no query waits."""
        return not self._waiting

    def leave(self, asked: Asked[Response]) -> Asked[Response] | None:
        """Removes a query whose caller gives up.

        Returns:
            The query whose turn it is in its place, if it was its turn and another waits.
        """
        asked.is_gone = True
        if asked.leads:
            self._under_way -= 1
            self._turns -= 1
            return self._next()
        if asked in self._waiting:
            self._waiting.remove(asked)
        return None

    def _next(self) -> Asked[Response] | None:
        waiting = len(self._waiting)
        if not waiting or (self._under_way >= self._calls_max and waiting < self._queries_max * (self._turns + 1)):
            return None
        first = self._waiting.popleft()
        self._give_turn(first)
        return first

    def _give_turn(self, asked: Asked[Response]) -> None:
        asked.leads = True
        self._under_way += 1
        self._turns += 1


def _copy(error: TwoTowerError) -> TwoTowerError:
    """Returns a copy of an error: each caller raises one of its own, since raising adds to its traceback."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
