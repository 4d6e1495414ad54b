"""Mutations: wrappers around the real code that each break one rule of the swap protocol.

They test the protocol check itself: for each mutation, some property of `tests.protocol.check` must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retrieval.serving.bundles import swap_policy
from retrieval.serving.bundles.swap_policy import Decision, Event, GraceElapsed, LoadRefused, RetryDue, State
from retrieval.store.live import LivePointer
from tests.protocol.rules import Models, Rules, answer
from two_tower_client import model_agreement
from two_tower_client.errors import ModelNotServed
from two_tower_client.model_agreement import Embed, Embedded, Exchange, NotServed, Outcome, Pin, Search, Searched, Step

Stepped = tuple[State, tuple[Decision, ...]]


def drop_old_at_once(state: State, event: Event, **options: bool) -> Stepped:
    """Drops an unwanted bundle at once, without a grace period."""
    after, decisions = swap_policy.step(state, event, **options)
    for version in sorted(after.retiring):
        after, more = swap_policy.step(after, GraceElapsed(version), **options)
        decisions += more
    return after, decisions


def drop_running_on_refusal(state: State, event: Event, **options: bool) -> Stepped:
    """Drops the running bundle when the live bundle is refused."""
    after, decisions = swap_policy.step(state, event, **options)
    if isinstance(event, LoadRefused):
        after = replace(after, open=(), retiring=frozenset())
    return after, decisions


def never_retry(state: State, event: Event, **options: bool) -> Stepped:
    """Never tries a refused bundle again until the pointer changes."""
    return (state, ()) if isinstance(event, RetryDue) else swap_policy.step(state, event, **options)


def keep_answering_with_old(state: State, event: Event, **options: bool) -> Stepped:
    """Opens the live bundle, but still answers with the previous one by default."""
    after, decisions = swap_policy.step(state, event, **options)
    kept = [version for version in state.open[:1] if version in after.open]
    return replace(after, open=(*kept, *(version for version in after.open if version not in kept))), decisions


def keep_only_live(pointer: LivePointer) -> tuple[str, ...]:
    """Keeps only the live bundle open, not the one that was live before it."""
    return pointer.open_versions[:1]


def search_with_newest(pin: Pin) -> Exchange:
    """Embeds with the live model of the query tower, but searches in the newest model that the ANN side reported."""
    if not pin.model_version:
        return (yield from model_agreement.exchange(pin))
    inner = model_agreement.exchange(Pin())
    step = next(inner)
    while True:
        outcome = yield (Search(pin.model_version) if isinstance(step, Search) else step)
        if isinstance(step, Search) and isinstance(outcome, NotServed):
            outcome = yield step
        if isinstance(outcome, Searched):
            outcome = replace(outcome, model_version=step.model_version)
        try:
            step = inner.send(outcome)
        except StopIteration as done:
            return done.value


def no_re_embed(pin: Pin) -> Exchange:
    """Fails the request at the first refusal, instead of embedding the query again with another model."""
    return (yield from _give_up(pin, lambda embeds, refusals: refusals > 0))


def three_rounds_only(pin: Pin) -> Exchange:
    """Fails the request after three embeddings, although the pinned model may be a fourth beyond three open ones."""
    return (yield from _give_up(pin, lambda embeds, refusals: embeds > 3))


def answer_with_another_model(step: Step, models: Models) -> Outcome:
    """Answers with the live model if the requested model is not open."""
    outcome = answer(step, models)
    if isinstance(outcome, NotServed):
        return Embedded(models[0]) if isinstance(step, Embed) else Searched(models[0], models[0])
    return outcome


def _give_up(pin: Pin, is_enough: Callable[[int, int], bool]) -> Exchange:
    inner = model_agreement.exchange(pin)
    step, embeds, refusals = next(inner), 1, 0
    while True:
        if is_enough(embeds, refusals):
            raise ModelNotServed("gives up", ())
        outcome = yield step
        refusals += isinstance(outcome, NotServed)
        try:
            step = inner.send(outcome)
        except StopIteration as done:
            return done.value
        embeds += isinstance(step, Embed)


MUTATIONS: dict[str, Rules] = {
    function.__name__.replace("_", "-"): Rules(**{field: function})
    for field, functions in {
        "step": (drop_old_at_once, drop_running_on_refusal, never_retry, keep_answering_with_old),
        "served": (keep_only_live,),
        "exchange": (search_with_newest, no_re_embed, three_rounds_only),
        "answer": (answer_with_another_model,),
    }.items()
    for function in functions
}
"""Rules for the check with one of them broken, by name of the mutation."""


def what_breaks(rule: str) -> str:
    """Returns a sentence on what a mutation does.

    Args:
        rule: name of the mutation in `MUTATIONS`.
    """
    return (globals()[rule.replace("-", "_")].__doc__ or "").strip()
