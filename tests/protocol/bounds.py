"""Bounds, states and results of an exploration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from retrieval.serving.bundles.swap_policy import Event
from retrieval.store.live import LivePointer

SIDES = ("query tower", "ANN")
GONE = "gone"
"""Model that no bundle has, for a client that was idle for so long that its pinned model is gone."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of one exploration: how often each kind of event may occur, and the state at the start.

    Attributes:
        name: Name of the exploration, for the table.
        promotes: Largest number of promotions.
        roll_backs: Largest number of roll backs.
        refusals: Largest number of failed loads of all replicas together.
        restarts: Largest number of restarts of all replicas together.
        models: Model of each bundle. The first bundle is live and open on all replicas at the start.
        pins: Models that the request may be pinned to; an empty string stands for no pin.
        again: Whether bundles that were live before may be promoted again.
        cold: Whether no bundle is live or open at the start.
        always_shared: Whether some model is open on all replicas in every state within these bounds, so that no request
            may fail.
        unload_first: Whether the services have memory for one bundle only, so that each swap leaves a gap.
    """

    name: str
    promotes: int
    roll_backs: int = 0
    refusals: int = 0
    restarts: int = 0
    models: Mapping[str, str] = field(default_factory=lambda: {"A": "a", "B": "b", "C": "c"})
    pins: tuple[str, ...] = ("", "a", "b", "c", GONE)
    again: bool = False
    cold: bool = False
    always_shared: bool = False
    unload_first: bool = False


class Control(NamedTuple):
    """The live pointer, and how many events of each kind may still occur.

    Attributes:
        pointer: Live pointer; None before the first promotion.
        promotes: Number of promotions left.
        roll_backs: Number of roll backs left.
        refusals: Number of failed loads left.
        restarts: Number of restarts left.
    """

    pointer: LivePointer | None
    promotes: int
    roll_backs: int
    refusals: int
    restarts: int


World = tuple[int, int, int, int, int]
"""State of the world as five numbers.

They are the number of the control, of the pair of query towers, of the pair of ANN replicas, and of the history of the
request in flight, or `IDLE`; and the models that all replicas have had open since the request began, as bits."""

What = tuple[int, int, object]
"""An event: number of the side, index of the replica, and the event itself. Side -1 is the store or the client."""

IDLE = -1


@dataclass(frozen=True)
class Result:
    """Result of an exploration.

    Attributes:
        bounds: Bounds of the exploration.
        states: Number of distinct states reached.
        transitions: Number of transitions between states.
        answered: Number of transitions that end the request with an answer.
        failed: Number of transitions that end the request with an allowed failure: no model was open on all replicas
            during the whole request.
        seconds: Duration in seconds.
        problem: Violated property in words; empty if all properties hold.
        trace: Shortest path to the violation, one line per event.
    """

    bounds: Bounds
    states: int
    transitions: int
    answered: int
    failed: int
    seconds: float
    problem: str
    trace: tuple[str, ...]


class Move(NamedTuple):
    """A transition that violates a property.

    Attributes:
        what: Event of the transition.
        world: State after it; None if the event ends the request.
    """

    what: What
    world: World | None


class Stray(NamedTuple):
    """A replica that can settle in a state other than the one that the store names.

    Attributes:
        side: Side of the replica: query tower or ANN.
        index: Index of the replica in its pair.
        events: Events that lead the replica to that state.
        problem: Violated property in words.
    """

    side: int
    index: int
    events: list[Event]
    problem: str
