"""Decides which bundle to load, to answer with and to drop: a pure state machine, without threads or a clock.

The states of one bundle:

```
                 ┌────────── RetryDue, PointerChanged ─────────┐
                 ▼                                             │
   wanted ── Load ──► loading ── LoadRefused ──────────────► refused
                         │
                         ├── LoadFinished, no longer wanted ─► dropped
                         ▼
                       open ◄───── PointerChanged ────┐
                         │                            │
                         └── unwanted, live open ─► retiring ── GraceElapsed ─► dropped
```

The rules:

1. The live bundle and the one that was live before it are wanted. The live one loads first; one load at a time.
2. The live bundle answers by default once it is open. Until then the bundle that answered before goes on.
3. No open bundle is dropped while the live one is not open, so a refused bundle never ends the service.
4. An unwanted bundle is dropped only after a grace period, so that requests that span a swap can finish.
5. An open bundle is not loaded again, so a roll back to it is immediate.
6. A refused bundle is tried again only when the pointer changes or its backoff is over.

If memory holds only one bundle, ``unload_first`` replaces rules 1, 3 and 4: every open bundle is dropped before the
live one loads. If the live bundle is refused, nothing answers until the one before it is loaded again, and the live
bundle is not tried again while that one answers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class State:
    """The state of a replica. Hashable, so that a test can enumerate every reachable state.

    Attributes:
        wanted: versions that the store names: the live one, then the one before it. Empty before the first promotion.
        open: versions that can answer, the one that answers by default first.
        loading: version that is being verified and opened; empty if none is.
        refused: versions of `wanted` that failed to load and wait for another try.
        retiring: versions of `open` that are in their grace period.
    """

    wanted: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    loading: str = ""
    refused: frozenset[str] = frozenset()
    retiring: frozenset[str] = frozenset()

    @property
    def live(self) -> str:
        """The version that the store names as live; empty before the first promotion."""
        return self.wanted[0] if self.wanted else ""


@dataclass(frozen=True)
class PointerChanged:
    """The store names other bundles than before.

    Attributes:
        wanted: versions that the store names: the live one, then the one before it.
    """

    wanted: tuple[str, ...]


@dataclass(frozen=True)
class LoadFinished:
    """The bundle that was loading is open."""

    version: str


@dataclass(frozen=True)
class LoadRefused:
    """A gate refused the bundle that was loading."""

    version: str


@dataclass(frozen=True)
class RetryDue:
    """The backoff of a refused bundle is over."""

    version: str


@dataclass(frozen=True)
class GraceElapsed:
    """The grace period of a retiring bundle is over. Ignored if the bundle is no longer retiring."""

    version: str


Event = PointerChanged | LoadFinished | LoadRefused | RetryDue | GraceElapsed


@dataclass(frozen=True)
class Load:
    """Verify and open this bundle, then report LoadFinished or LoadRefused."""

    version: str


@dataclass(frozen=True)
class Switch:
    """Answer with this bundle by default from now on."""

    version: str


@dataclass(frozen=True)
class Retire:
    """Report GraceElapsed for this bundle after the grace period."""

    version: str


@dataclass(frozen=True)
class Drop:
    """Drop the reference to this bundle; requests in flight keep theirs."""

    version: str


Decision = Load | Switch | Retire | Drop


def step(state: State, event: Event, *, unload_first: bool = False) -> tuple[State, tuple[Decision, ...]]:
    """Returns the state after an event, and the decisions to carry out, in this order.

    Args:
        state: state before the event.
        event: the event.
        unload_first: drop every open bundle before the live bundle loads.

    Raises:
        ValueError: the event reports a load that is not running.
    """
    decisions: list[Decision] = []
    match event:
        case PointerChanged(wanted):
            after = replace(state, wanted=wanted, refused=frozenset())
        case LoadFinished(version):
            _check_loading(state, version)
            after = replace(state, loading="")
            if version in state.wanted:
                after = replace(after, open=(*state.open, version))
            else:
                decisions.append(Drop(version))
        case LoadRefused(version):
            _check_loading(state, version)
            after = replace(state, loading="", refused=state.refused | {version} & set(state.wanted))
        case RetryDue(version):
            gap = unload_first and bool(state.open)
            after = state if gap else replace(state, refused=state.refused - {version})
        case GraceElapsed(version):
            after = state
            if version in state.retiring:
                after = replace(state, open=_without(state.open, {version}), retiring=state.retiring - {version})
                decisions.append(Drop(version))
    after, settled = _settle(after, unload_first)
    if after.open and after.open[:1] != state.open[:1]:
        decisions.append(Switch(after.open[0]))
    return after, (*decisions, *settled)


def _settle(state: State, unload_first: bool) -> tuple[State, list[Decision]]:
    decisions: list[Decision] = []
    live_open = state.live in state.open
    if state.open:
        answering = state.live if live_open else state.open[0]
        wanted = [version for version in state.wanted if version in state.open and version != answering]
        others = _without(state.open, {answering, *wanted})
        state = replace(state, open=(answering, *wanted, *others))
    retiring = frozenset(state.open) - set(state.wanted) if live_open else frozenset[str]()
    decisions += [Retire(version) for version in state.open if version in retiring - state.retiring]
    state = replace(state, retiring=retiring)
    if version := _next_load(state, unload_first):
        if unload_first:
            decisions += [Drop(old) for old in state.open]
            state = replace(state, open=(), retiring=frozenset())
        decisions.append(Load(version))
        state = replace(state, loading=version)
    return state, decisions


def _next_load(state: State, unload_first: bool) -> str:
    if state.loading:
        return ""
    candidates = _without(state.wanted, {*state.open, *state.refused})
    if unload_first and state.open:
        candidates = tuple(version for version in candidates if version == state.live)
    return candidates[0] if candidates else ""


def _check_loading(state: State, version: str) -> None:
    if version != state.loading:
        raise ValueError(f"a load of {version!r} was reported while {state.loading!r} is loading")


def _without(versions: tuple[str, ...], removed: Collection[str]) -> tuple[str, ...]:
    return tuple(version for version in versions if version not in removed)
