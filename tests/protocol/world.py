"""A small world for the swap protocol: one LIVE pointer, two replicas a side, one request. No threads, no clock.

Replicas and clients run the real code: `retrieval.serving.bundles.swap_policy.step` and
`two_tower_client.model_agreement.exchange`. `retrieval.store.live.LivePointer` names the bundles to open. This module
adds the events around them, and numbers every replica and every history of a request, so that a state of the whole
world is a few small integers.

Assumptions, each as the services have it:

- A step of a request is answered at once, from the snapshot that its replica has at that moment.
- A request ends before any grace period that began after it did: `retire_after_s` is at least the longest deadline.
  So while a request is in flight only those bundles are dropped that were retiring already when it began.
- A replica that has no bundle open answers NO_BUNDLE, is not healthy, and gets no calls.
- A restart forgets everything but the code; the pointer is read again afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

from retrieval.serving.bundles import swap_policy
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
from two_tower_client import model_agreement
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Searched, Step

Models = tuple[str, ...]
"""Models that a replica has open, the one that answers by default first."""


@dataclass(frozen=True)
class Restart:
    """A replica is killed and comes up again, with nothing."""


def answer(step: Step, models: Models) -> Outcome:
    """Returns what a service answers that has `models` open, as its proto says."""
    if step.model_version and step.model_version not in models:
        return NotServed(models)
    model = step.model_version or models[0]
    return Embedded(model) if isinstance(step, Embed) else Searched(model, models[0])


@dataclass(frozen=True)
class Rules:
    """The code under check. A mutation replaces one of these by a wrapper around it."""

    step: Callable[..., tuple[State, tuple[swap_policy.Decision, ...]]] = swap_policy.step
    exchange: Callable[[Pin], model_agreement.Exchange] = model_agreement.exchange
    served: Callable[[LivePointer], tuple[str, ...]] = lambda pointer: pointer.open_versions
    answer: Callable[[Step, Models], Outcome] = answer


def promote(pointer: LivePointer | None, version: str) -> LivePointer:
    """Returns what `BundleStore.promote` makes of the pointer."""
    if pointer is None or pointer.version == version:
        return pointer or LivePointer(version)
    return LivePointer(version, tuple(v for v in (pointer.version, *pointer.previous) if v != version))


def roll_back(pointer: LivePointer) -> LivePointer:
    """Returns what `BundleStore.roll_back` makes of the pointer, which names a bundle to go back to."""
    return LivePointer(pointer.previous[0], pointer.previous[1:])


class Replica(NamedTuple):
    """One process of a service.

    Attributes:
        state: of its lifecycle.
        aging: those retiring bundles whose grace may end now: all of them where no request is in flight, else those
            that were retiring when it began.
    """

    state: State = State()
    aging: frozenset[str] = frozenset()


class Move(NamedTuple):
    """What may happen to one replica of a pair.

    Attributes:
        cost: "" or the budget that it draws on: "refusals" or "restarts".
        index: of the replica, 0 or 1.
        event: what happens.
        pair: number of the pair after it.
        problem: what is wrong with that; empty where nothing is.
    """

    cost: str
    index: int
    event: Event | Restart
    pair: int
    problem: str


class Replicas:
    """Numbers replicas, and unordered pairs of them: two replicas of one side are interchangeable."""

    def __init__(self, rules: Rules, model_of: dict[str, str], unload_first: bool) -> None:
        """Takes the code under check, the model of each bundle, and whether a gap between bundles is allowed."""
        self.rules = rules
        self.model_of = model_of
        self.step = partial(rules.step, unload_first=True) if unload_first else rules.step
        self._unload_first = unload_first
        self.pairs: list[tuple[Replica, Replica]] = []
        self._pair_numbers: dict[tuple[Replica, Replica], int] = {}
        # One cache an object, since what is cached depends on its rules.
        self.moves = cache(self._moves)
        self.shared = cache(self._shared)
        self.answers = cache(self._answers)
        self.unsettled = cache(self._unsettled)

    def number(self, one: Replica, other: Replica) -> int:
        """Returns the number of a pair, whichever comes first."""
        first, second = sorted((one, other), key=_order)
        known = self._pair_numbers.setdefault((first, second), len(self.pairs))
        if known == len(self.pairs):
            self.pairs.append((first, second))
        return known

    def models(self, replica: Replica) -> Models:
        """Returns the models that a replica has open."""
        return tuple(dict.fromkeys(self.model_of[version] for version in replica.state.open))

    def _shared(self, pair: int) -> int:
        """Returns the models that every replica has which gets calls, a bit each; 0 where no replica does."""
        routable = [set(self.models(replica)) for replica in self.pairs[pair] if replica.state.open]
        shared = set.intersection(*routable) if routable else set[str]()
        return sum(1 << bit for bit, model in enumerate(sorted(set(self.model_of.values()))) if model in shared)

    def _answers(self, pair: int, step: Step) -> tuple[tuple[int, Outcome], ...]:
        """Returns what a step may get, and from which replica; nothing where no replica gets calls."""
        found: dict[Outcome, int] = {}
        for index, replica in enumerate(self.pairs[pair]):
            if replica.state.open:
                found.setdefault(self.rules.answer(step, self.models(replica)), index)
        return tuple((index, outcome) for outcome, index in found.items())

    def _moves(self, pair: int, served: tuple[str, ...], in_flight: bool) -> tuple[Move, ...]:
        """Returns all that may happen to a pair while the store names `served`."""
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
        # A bundle that was wanted again meanwhile begins a new grace period when it is not.
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
        """Returns index, events and problem of a replica that can end elsewhere than on the bundles served.

        Only what must happen sooner or later happens: polls, loads that succeed, retries, the end of grace periods.
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
            return [], f"ends with {_series(state.open)} open, while the store names {_series(served)}"
        return None


class End(NamedTuple):
    """How a request ended.

    Attributes:
        failure: why it failed; empty where it was answered.
        mixed: the models of embedding and index, where they differ.
    """

    failure: str
    mixed: str


class Requests:
    """Numbers the histories of a request: its pin, then the outcome of every step.

    Histories after which the generator stands at the same line with equal variables go on alike: they share a number.
    """

    def __init__(self, rules: Rules) -> None:
        """Takes the code under check."""
        self._rules = rules
        self.histories: list[tuple[str, tuple[Outcome, ...]]] = []
        self.steps: list[Step] = []
        self._numbers: dict[object, int] = {}
        self.begin = cache(self._begin)
        self.advance = cache(self._advance)

    def _begin(self, pin: str) -> int:
        request = self._add(pin, ())
        if isinstance(request, End):
            raise TypeError(f"a request ended before its first step: {request}")
        return request

    def _advance(self, request: int, outcome: Outcome) -> int | End:
        """Returns the request after a step was answered, or how it ended."""
        pin, past = self.histories[request]
        embedded = [o.model_version for o in past if isinstance(o, Embedded)]
        after = self._add(pin, (*past, outcome))
        if isinstance(after, End) and not after.failure and isinstance(outcome, Searched):
            mixed = embedded[-1:] != [outcome.model_version]
            return End("", f"an embedding of {_series(embedded[-1:])} in the index of {outcome.model_version}" * mixed)
        return after

    def _add(self, pin: str, outcomes: tuple[Outcome, ...]) -> int | End:
        exchange = self._rules.exchange(Pin(pin))
        try:
            step = next(exchange)
            for outcome in outcomes:
                step = exchange.send(outcome)
        except StopIteration:
            return End("", "")
        except Exception as error:
            return End(f"{type(error).__name__}: {error}", "")
        known = self._numbers.setdefault(_standing(exchange, step, pin, outcomes), len(self.steps))
        if known == len(self.steps):
            self.histories.append((pin, outcomes))
            self.steps.append(step)
        return known


def _standing(exchange: model_agreement.Exchange, step: Step, pin: str, outcomes: tuple[Outcome, ...]) -> object:
    # The pin is read once at the start, and the last outcome is overwritten by the next: neither matters later.
    variables = {k: v for k, v in inspect.getgeneratorlocals(exchange).items() if k not in ("pin", "outcome")}
    if exchange.gi_code is not model_agreement.exchange.__code__:
        return pin, outcomes  # a mutation, whose variables may hold anything
    embedded = [o.model_version for o in outcomes if isinstance(o, Embedded)]
    return exchange.gi_frame.f_lasti, step, tuple(embedded[-1:]), repr(variables)


def _order(replica: Replica) -> tuple[object, ...]:
    state = replica.state
    return state.wanted, state.open, state.loading, sorted(state.refused), sorted(state.retiring), sorted(replica.aging)


def _series(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "nothing"
