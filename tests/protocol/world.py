"""A small world for the swap protocol: a live pointer, two replicas of each service, one request; no threads or clock.

Replicas and client run the real code, `retrieval.serving.bundles.swap_policy.step` and
`two_tower_client.model_agreement.exchange`; `retrieval.store.live.LivePointer` names the bundles to open. This module
adds the possible events around them. Every pair of replica states and every history of a request (its steps so far) is
stored under a number, so that a state of the whole model is a few small integers.

The assumptions, which hold for the services:

- A step of a request is answered at once, from the snapshot that the replica has at that moment.
- A request ends before any grace period that began after the request, because `retire_after_s` is at least the longest
  deadline. So the bundles that are dropped during a request were retiring already when it began.
- A replica without an open bundle answers NO_BUNDLE, is unhealthy, and gets no calls.
- A replica loses its whole state in a restart, and reads the pointer again afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from retrieval.serving.bundles.swap_policy import (
    Event,
    GraceElapsed,
    LoadFinished,
    LoadRefused,
    PointerChanged,
    RetryDue,
    State,
)
from retrieval.store.live import LivePointer
from tests.protocol.rules import Models, Rules, series
from two_tower_client.model_agreement import Outcome, Step


@dataclass(frozen=True)
class Restart:
    """Event: a replica is killed and starts again, without open bundles."""


def promote(pointer: LivePointer | None, version: str) -> LivePointer:
    """Returns the live pointer after `FolderStore.promote`."""
    if pointer is None or pointer.version == version:
        return pointer or LivePointer(version)
    return LivePointer(version, tuple(v for v in (pointer.version, *pointer.previous) if v != version))


def roll_back(pointer: LivePointer) -> LivePointer:
    """Returns the live pointer after `FolderStore.roll_back`; `pointer` has an earlier live bundle."""
    return LivePointer(pointer.previous[0], pointer.previous[1:])


class Replica(NamedTuple):
    """One process of a service.

    Attributes:
        state: State of its swap_policy.
        aging: Retiring bundles whose grace period may end now: all of them if no request is in flight, else those that
            were retiring when the request began.
    """

    state: State = State()
    aging: frozenset[str] = frozenset()


class Move(NamedTuple):
    """A possible event of one replica of a pair.

    Attributes:
        cost: Bound that the event counts against, "refusals" or "restarts"; empty if it is unbounded.
        index: Index of the replica, 0 or 1.
        event: The event.
        pair: Number of the pair after the event.
        problem: Property that the event violates, in words; empty if it violates none.
    """

    cost: str
    index: int
    event: Event | Restart
    pair: int
    problem: str


class Replicas:
    """Table of the states of the two replicas of a service, each pair of states stored under a number.

    The order of a pair does not matter, because both replicas of a service are alike.

    Attributes:
        rules: Code under check.
        model_of: Model of each bundle.
        step: State machine of a replica, with the amount of memory that the services have.
        pairs: Pair of states of each number.
    """

    def __init__(self, rules: Rules, model_of: dict[str, str], unload_first: bool) -> None:
        """Makes a table without pairs of replicas.

        Args:
            rules: code under check.
            model_of: model of each bundle.
            unload_first: whether the services have memory for one bundle only.
        """
        self.rules = rules
        self.model_of = model_of
        self.step = partial(rules.step, unload_first=True) if unload_first else rules.step
        self._unload_first = unload_first
        self.pairs: list[tuple[Replica, Replica]] = []
        self._pair_numbers: dict[tuple[Replica, Replica], int] = {}
        # Each object has its own caches, since the cached results depend on its rules.
        self.moves = cache(self._moves)
        self.shared = cache(self._shared)
        self.answers = cache(self._answers)
        self.unsettled = cache(self._unsettled)

    def number(self, one: Replica, other: Replica) -> int:
        """Returns the number of a pair of replicas; their order does not matter."""
        first, second = sorted((one, other), key=_order)
        known = self._pair_numbers.setdefault((first, second), len(self.pairs))
        if known == len(self.pairs):
            self.pairs.append((first, second))
        return known

    def models(self, replica: Replica) -> Models:
        """Returns the models that a replica has open, the one that answers by default first."""
        return tuple(dict.fromkeys(self.model_of[version] for version in replica.state.open))

    def _shared(self, pair: int) -> int:
        """Returns the models that are open on every replica that gets calls, as bits; 0 if no replica gets calls."""
        routable = [set(self.models(replica)) for replica in self.pairs[pair] if replica.state.open]
        shared = set.intersection(*routable) if routable else set[str]()
        return sum(1 << bit for bit, model in enumerate(sorted(set(self.model_of.values()))) if model in shared)

    def _answers(self, pair: int, step: Step) -> tuple[tuple[int, Outcome], ...]:
        """Returns the possible outcomes of a step, each with the replica's index; empty if no replica gets calls."""
        found: dict[Outcome, int] = {}
        for index, replica in enumerate(self.pairs[pair]):
            if replica.state.open:
                found.setdefault(self.rules.answer(step, self.models(replica)), index)
        return tuple((index, outcome) for outcome, index in found.items())

    def _moves(self, pair: int, served: tuple[str, ...], in_flight: bool) -> tuple[Move, ...]:
        """Returns the possible events of a pair.

        Args:
            pair: number of the pair.
            served: bundles that the store names.
            in_flight: whether a request is in flight.
        """
        replicas = self.pairs[pair]
        found: list[Move] = []
        for index, replica in enumerate(replicas[:1] if replicas[0] == replicas[1] else replicas):
            other = replicas[1 - index]
            for event in self._events(replica, served):
                after, problem = self._after(replica, event, in_flight)
                if after != replica:
                    cost = "refusals" if isinstance(event, LoadRefused) else ""
                    found.append(Move(cost, index, event, self.number(after, other), problem))
            if replica != Replica():
                found.append(Move("restarts", index, Restart(), self.number(Replica(), other), ""))
        return tuple(found)

    def _events(self, replica: Replica, served: tuple[str, ...]) -> list[Event]:
        state = replica.state
        events: list[Event] = [PointerChanged(served)] if served and served != state.wanted else []
        if state.loading:
            events += [LoadFinished(state.loading), LoadRefused(state.loading)]
        events += [RetryDue(version) for version in sorted(state.refused)]
        return events + [GraceElapsed(version) for version in sorted(replica.aging)]

    def _after(self, replica: Replica, event: Event, in_flight: bool) -> tuple[Replica, str]:
        before = replica.state
        state, _ = self.step(before, event)
        # A retiring bundle that becomes wanted again gets a new grace period when it becomes unwanted.
        aging = replica.aging & state.retiring if in_flight else state.retiring
        ended = {event.version} & replica.aging if isinstance(event, GraceElapsed) else set()
        lost = set(before.open) - set(state.open)
        if self._unload_first:
            return Replica(state, aging), ""
        if lost - ended:
            return Replica(state, aging), f"bundle {', '.join(sorted(lost - ended))} is dropped without its grace"
        problem = "the last open bundle is dropped" if before.open and not state.open else ""
        return Replica(state, aging), problem

    def _unsettled(self, pair: int, served: tuple[str, ...]) -> tuple[int, list[Event], str] | None:
        """Returns a replica of a pair that can settle in a wrong state: its index, the events, and the problem.

        Only events that are certain to occur are considered: polls, successful loads, retries, and ends of grace
        periods. Returns None if both replicas settle with the bundles open that the store names.

        Args:
            pair: number of the pair.
            served: bundles that the store names.
        """
        for index, replica in enumerate(self.pairs[pair]):
            if found := self._wanders(replica.state, served, {}):
                return (index, *found)
        return None

    def _wanders(
        self, state: State, served: tuple[str, ...], known: dict[State, bool]
    ) -> tuple[list[Event], str] | None:
        if state in known:
            return None if known[state] else ([], "goes round in circles for ever")
        known[state] = False
        moved = False
        for event in self._events(Replica(state, state.retiring), served):
            if isinstance(event, LoadRefused):
                continue
            after, _ = self.step(state, event)
            if after == state:
                continue
            moved = True
            if found := self._wanders(after, served, known):
                return [event, *found[0]], found[1]
        known[state] = True
        kept = served[:1] if self._unload_first else served
        if not moved and (state.open[:1] != served[:1] or set(state.open) != set(kept)):
            return [], f"ends with {series(state.open)} open, while the store names {series(served)}"
        return None


def _order(replica: Replica) -> tuple[object, ...]:
    state = replica.state
    return state.wanted, state.open, state.loading, sorted(state.refused), sorted(state.retiring), sorted(replica.aging)
