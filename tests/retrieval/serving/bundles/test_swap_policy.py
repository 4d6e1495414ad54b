"""The swap policy: single steps, and its rules in every reachable state."""

from __future__ import annotations

import pytest

from retrieval.serving.bundles.swap_policy import (
    Decision,
    Drop,
    Event,
    GraceElapsed,
    Load,
    LoadFinished,
    LoadRefused,
    PointerChanged,
    Retire,
    RetryDue,
    State,
    Switch,
    step,
)


def run(*events: Event, unload_first: bool = False) -> tuple[State, list[Decision]]:
    """Returns the last state, and the decisions of the last event."""
    state, decisions = State(), ()
    for event in events:
        state, decisions = step(state, event, unload_first=unload_first)
    return state, list(decisions)


FIRST = (PointerChanged(("a",)), LoadFinished("a"))
SECOND = (*FIRST, PointerChanged(("b", "a")), LoadFinished("b"))
THIRD = (*SECOND, PointerChanged(("c", "b")), LoadFinished("c"))


def test_loads_the_first_bundle_and_answers_with_it() -> None:
    assert run(*FIRST[:1]) == (State(("a",), loading="a"), [Load("a")])
    assert run(*FIRST) == (State(("a",), ("a",)), [Switch("a")])


def test_loads_the_live_bundle_first_then_the_previous_one() -> None:
    assert run(PointerChanged(("b", "a")))[1] == [Load("b")]
    assert run(PointerChanged(("b", "a")), LoadFinished("b"))[1] == [Switch("b"), Load("a")]
    assert run(PointerChanged(("b", "a")), LoadFinished("b"), LoadFinished("a")) == (State(("b", "a"), ("b", "a")), [])


def test_keeps_the_previous_bundle_open_and_drops_the_one_before_after_its_grace_period() -> None:
    state, decisions = run(*THIRD)
    assert state == State(("c", "b"), ("c", "b", "a"), retiring=frozenset("a"))
    assert decisions == [Switch("c"), Retire("a")]
    assert run(*THIRD, GraceElapsed("a")) == (State(("c", "b"), ("c", "b")), [Drop("a")])


def test_rolls_back_without_a_load() -> None:
    state, decisions = run(*SECOND, PointerChanged(("a",)))
    assert (state.open, decisions) == (("a", "b"), [Switch("a"), Retire("b")])


def test_bundle_that_is_wanted_again_stops_retiring() -> None:
    state, decisions = run(*THIRD, PointerChanged(("a", "c")))
    assert (state.open, state.retiring, decisions) == (("a", "c", "b"), frozenset("b"), [Switch("a"), Retire("b")])
    assert run(*THIRD, PointerChanged(("a", "c")), GraceElapsed("a"))[1] == []


def test_refused_bundle_leaves_the_old_one_answering() -> None:
    state, decisions = run(*SECOND, PointerChanged(("c", "b")), LoadRefused("c"))
    assert state == State(("c", "b"), ("b", "a"), refused=frozenset("c"))
    assert decisions == []


def test_refused_bundle_is_tried_again_when_due_or_when_the_pointer_changes() -> None:
    refused = (*FIRST, PointerChanged(("b", "a")), LoadRefused("b"))
    assert run(*refused, RetryDue("b"))[1] == [Load("b")]
    assert run(*refused, PointerChanged(("c", "b")))[1] == [Load("c")]
    assert run(*refused, PointerChanged(("c", "b")), LoadFinished("c"))[1] == [Switch("c"), Retire("a"), Load("b")]


def test_answers_with_the_previous_bundle_when_the_live_one_is_refused_at_start() -> None:
    state, decisions = run(PointerChanged(("b", "a")), LoadRefused("b"), LoadFinished("a"))
    assert (state.open, decisions) == (("a",), [Switch("a")])


def test_drops_a_loaded_bundle_that_is_no_longer_wanted() -> None:
    state, decisions = run(*FIRST, PointerChanged(("b", "a")), PointerChanged(("d", "c")), LoadFinished("b"))
    assert (state.open, decisions) == (("a",), [Drop("b"), Load("d")])


def test_raises_when_a_load_that_is_not_running_is_reported() -> None:
    with pytest.raises(ValueError, match="is loading"):
        run(*FIRST, LoadFinished("b"))


def test_unload_first_drops_before_it_loads() -> None:
    state, decisions = run(*FIRST, PointerChanged(("b", "a")), unload_first=True)
    assert (state.open, decisions) == ((), [Drop("a"), Load("b")])
    after = run(*FIRST, PointerChanged(("b", "a")), LoadFinished("b"), unload_first=True)
    assert after == (State(("b", "a"), ("b",)), [Switch("b")])


def test_unload_first_falls_back_to_the_previous_bundle_and_keeps_it() -> None:
    refused = (*FIRST, PointerChanged(("b", "a")), LoadRefused("b"))
    assert run(*refused, unload_first=True)[1] == [Load("a")]
    assert run(*refused, LoadFinished("a"), RetryDue("b"), unload_first=True)[1] == []


POINTERS = [("a",), ("b", "a"), ("c", "b"), ("b", "c"), ("a", "c"), ("c",)]


def possible(state: State) -> list[Event]:
    """Returns every event that can happen in a state."""
    events: list[Event] = [PointerChanged(wanted) for wanted in POINTERS if wanted != state.wanted]
    if state.loading:
        events += [LoadFinished(state.loading), LoadRefused(state.loading)]
    events += [RetryDue(version) for version in state.refused]
    return events + [GraceElapsed(version) for version in state.retiring]


@pytest.mark.parametrize("unload_first", [False, True])
def test_rules_hold_in_every_reachable_state(unload_first: bool) -> None:
    seen, todo = {State()}, [State()]
    while todo:
        before = todo.pop()
        for event in possible(before):
            after, decisions = step(before, event, unload_first=unload_first)
            check(before, event, after, decisions, unload_first)
            if after not in seen:
                seen.add(after)
                todo.append(after)
    assert len(seen) > 40


def check(before: State, event: Event, after: State, decisions: tuple[Decision, ...], unload_first: bool) -> None:
    dropped = {d.version for d in decisions if isinstance(d, Drop)}
    loads = [d.version for d in decisions if isinstance(d, Load)]
    assert len(set(after.open)) == len(after.open)
    assert after.loading not in after.open
    assert after.refused <= set(after.wanted)
    assert after.retiring <= set(after.open) - set(after.wanted)
    # Rule 2: the live bundle answers once it is open, and nothing else takes over.
    if after.live in after.open:
        assert after.open[0] == after.live
    elif before.open and after.open:
        assert after.open[0] == before.open[0]
    switched = [d.version for d in decisions if isinstance(d, Switch)]
    assert switched == ([after.open[0]] if after.open and after.open[:1] != before.open[:1] else [])
    # Rule 1 and 5: one load at a time, of what is wanted and not open.
    assert len(loads) <= 1
    if loads:
        assert after.loading == loads[0]
        assert before.loading in ("", getattr(event, "version", ""))
        assert loads[0] in set(after.wanted) - set(after.open) - after.refused
    if not unload_first:
        # Rules 3 and 4: an open bundle is dropped only after its grace period, while the live one is open.
        for version in dropped & set(before.open):
            assert event == GraceElapsed(version)
            assert before.live in before.open
        # A wanted bundle that is neither open nor refused is always being loaded.
        assert after.loading or set(after.wanted) <= set(after.open) | after.refused
        assert len(after.open) > 0 or not before.open
