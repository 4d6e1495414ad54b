"""Explores every reachable state of the protocol check breadth first, and finds the shortest path to a violation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise

from retrieval.serving.bundles.swap_policy import LoadFinished, PointerChanged, State
from retrieval.store.live import LivePointer
from tests.protocol.bounds import IDLE, SIDES, Bounds, Control, Move, Result, Stray, What, World
from tests.protocol.events import describe
from tests.protocol.requests import End, Requests
from tests.protocol.rules import Rules
from tests.protocol.world import Replica, Replicas, promote, roll_back
from two_tower_client.model_agreement import Embed


class Exploration:
    """Visits all states of the modelled store, services and client that are reachable within given bounds.

    Attributes:
        bounds: Bounds of the exploration.
        rules: Code under check.
        replicas: Table of the states of replicas that were reached.
        requests: Table of the histories of a request that were reached.
        answered: Number of transitions so far that end the request with an answer.
        failed: Number of transitions so far that end the request with an allowed failure.
    """

    def __init__(self, bounds: Bounds, rules: Rules) -> None:
        """Prepares the exploration.

        Args:
            bounds: bounds of the exploration.
            rules: code under check.
        """
        self.bounds = bounds
        self.rules = rules
        self.replicas = Replicas(rules, dict(bounds.models), bounds.unload_first)
        self.requests = Requests(rules)
        self.answered = self.failed = 0
        self._controls: list[Control] = []
        self._control_numbers: dict[Control, int] = {}
        self._pointer_moves = cache(self._find_pointer_moves)
        self._side_moves = cache(self._find_side_moves)
        self._spend = cache(self._find_spent)
        self._served = cache(self._find_served)

    def run(self) -> Result:
        """Explores until all states are visited or a property is violated, and returns the result."""
        began = time.monotonic()
        start = self._start()
        parents: dict[World, World | None] = {start: None}
        todo = deque([start])
        transitions = 0
        problem, last = "", None
        while todo and not problem:
            world = todo.popleft()
            if world[3] == IDLE and (stray := self._check_settles(world)):
                problem, last = f"not on the live bundle: a replica {stray.problem}", stray
                break
            for what, after, wrong in self._moves(world):
                transitions += 1
                if wrong:
                    problem, last = wrong, Move(what, after)
                    break
                if after is not None and after not in parents:
                    parents[after] = world
                    todo.append(after)
        trace = tuple(self._trace(parents, world, last)) if problem else ()
        seconds = time.monotonic() - began
        return Result(self.bounds, len(parents), transitions, self.answered, self.failed, seconds, problem, trace)

    def _start(self) -> World:
        pointer = None if self.bounds.cold else LivePointer(next(iter(self.bounds.models)))
        replica = Replica()
        if pointer:
            state, _ = self.replicas.step(State(), PointerChanged(self.rules.served(pointer)))
            state, _ = self.replicas.step(state, LoadFinished(pointer.version))
            replica = Replica(state)
        pair = self.replicas.number(replica, replica)
        bounds = self.bounds
        control = Control(pointer, bounds.promotes, bounds.roll_backs, bounds.refusals, bounds.restarts)
        return self._number(control), pair, pair, IDLE, 0

    def _moves(self, world: World) -> Iterator[tuple[What, World | None, str]]:
        control, query, ann, request, shared = world
        idle = request == IDLE
        for what, after in self._pointer_moves(control):
            yield what, (after, query, ann, request, shared), ""
        for what, spent, pair, kept, problem in self._side_moves(0, control, query, idle):
            yield what, (spent, pair, ann, request, shared & kept), problem
        for what, spent, pair, kept, problem in self._side_moves(1, control, ann, idle):
            yield what, (spent, query, pair, request, shared & kept), problem
        if idle:
            both = self.replicas.shared(query) & self.replicas.shared(ann)
            for pin in self.bounds.pins:
                yield (-1, 0, pin), (control, query, ann, self.requests.begin(pin), both), ""
        else:
            yield from self._answers(world)

    def _find_side_moves(
        self, side: int, control: int, pair: int, idle: bool
    ) -> tuple[tuple[What, int, int, int, str], ...]:
        """Returns the possible events of the replicas of one service.

        Args:
            side: side of the replicas: query tower or ANN.
            control: number of the `Control`: live pointer and events left.
            pair: number of the side's pair of replica states.
            idle: whether no request is in flight.

        Returns:
            For each event: the event; number of the control after it; number of the pair after it; models that are
            open after it on every replica of the pair that gets calls, as bits; violated property, or "".
        """
        found: list[tuple[What, int, int, int, str]] = []
        for cost, index, event, after, problem in self.replicas.moves(pair, self._served(control), not idle):
            spent = self._spend(control, cost) if cost else control
            if spent >= 0:
                found.append(((side, index, event), spent, after, self.replicas.shared(after), problem))
        return tuple(found)

    def _answers(self, world: World) -> Iterator[tuple[What, World | None, str]]:
        control, query, ann, request, shared = world
        step = self.requests.steps[request]
        side = 0 if isinstance(step, Embed) else 1
        answers = self.replicas.answers(ann if side else query, step)
        for index, outcome in answers:
            after = self.requests.advance(request, outcome)
            if isinstance(after, End):
                yield (side, index, (step, outcome)), None, self._judge(after, shared)
            else:
                yield (side, index, (step, outcome)), (control, query, ann, after, shared), ""
        if not answers:
            end = End(f"no {SIDES[side]} replica has a bundle", "")
            yield (side, 0, (step, None)), None, self._judge(end, shared)

    def _judge(self, end: End, shared: int) -> str:
        if end.mixed:
            return f"mixed answer: {end.mixed}"
        if not end.failure:
            self.answered += 1
            return ""
        if shared or self.bounds.always_shared:
            models = [m for bit, m in enumerate(sorted(set(self.bounds.models.values()))) if shared >> bit & 1]
            kept = f"although {', '.join(models)} stayed open everywhere" if shared else "in the middle of one swap"
            return f"failed request, {kept}: {end.failure}"
        self.failed += 1
        return ""

    def _check_settles(self, world: World) -> Stray | None:
        if served := self._served(world[0]):
            for side, pair in enumerate(world[1:3]):
                if found := self.replicas.unsettled(pair, served):
                    return Stray(side, *found)
        return None

    def _number(self, control: Control) -> int:
        known = self._control_numbers.setdefault(control, len(self._controls))
        if known == len(self._controls):
            self._controls.append(control)
        return known

    def _find_pointer_moves(self, number: int) -> tuple[tuple[What, int], ...]:
        control = self._controls[number]
        pointer = control.pointer
        found: list[tuple[What, int]] = []
        if control.promotes:
            known = (pointer.version, *pointer.previous) if pointer else ()
            # Bundles that were never promoted differ in name only, so it suffices to try the next one.
            fresh = [version for version in self.bounds.models if version not in known][:1]
            for version in [*(known[1:] if self.bounds.again else ()), *fresh]:
                after = promote(pointer, version)
                left = control._replace(pointer=after, promotes=control.promotes - 1)
                found.append(((-1, 0, ("promote", after)), self._number(left)))
        if control.roll_backs and pointer and pointer.previous:
            after = roll_back(pointer)
            left = control._replace(pointer=after, roll_backs=control.roll_backs - 1)
            found.append(((-1, 0, ("roll back", after)), self._number(left)))
        return tuple(found)

    def _find_spent(self, number: int, cost: str) -> int:
        control = self._controls[number]
        left = getattr(control, cost)
        return self._number(control._replace(**{cost: left - 1})) if left else -1

    def _find_served(self, number: int) -> tuple[str, ...]:
        pointer = self._controls[number].pointer
        return self.rules.served(pointer) if pointer else ()

    def _trace(self, parents: Mapping[World, World | None], world: World, last: Move | Stray | None) -> Iterator[str]:
        path = [world]
        while (before := parents[path[-1]]) is not None:
            path.append(before)
        path.reverse()
        # Pairs are unordered, so a replica may change its index; its name moves with it.
        names = [[0, 1], [0, 1]]
        for before, after in pairwise(path):
            what = next(what for what, reached, _ in self._moves(before) if reached == after)
            yield self._line(before, after, what, names)
        if isinstance(last, Move):
            yield self._line(world, last.world, last.what, names)
        elif isinstance(last, Stray):
            replica = f"{SIDES[last.side]} {names[last.side][last.index] + 1}"
            yield from (f"{replica:<14} {describe(event)}" for event in last.events)
            yield f"{replica:<14} {last.problem}"

    def _line(self, before: World, after: World | None, what: What, names: list[list[int]]) -> str:
        side, index, event = what
        if side < 0:
            return (
                f"{'store':<14} {describe(event)}"
                if isinstance(event, tuple)
                else f"{'client':<14} begins, {describe(event)}"
            )
        replica = f"{SIDES[side]} {names[side][index] + 1}"
        if after is None or before[1 + side] == after[1 + side]:
            return f"{'client':<14} {describe(event)} ({replica})"
        old, new = (self.replicas.pairs[world[1 + side]] for world in (before, after))
        place = 0 if new[1] == old[1 - index] else 1
        if place != index:
            names[side].reverse()
        state = new[place].state
        return f"{replica:<14} {describe(event):<24} open: {', '.join(state.open) or '-'}"
