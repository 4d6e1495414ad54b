"""The functions under check, each of which a mutation can replace, and text for lists of names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retrieval.serving.bundles import swap_policy
from retrieval.serving.bundles.swap_policy import State
from retrieval.store.live import LivePointer
from two_tower_client import model_agreement
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Searched, Step

Models = tuple[str, ...]
"""Models that a replica has open, the one that answers by default first."""


def answer(step: Step, models: Models) -> Outcome:
    """Returns the outcome of a step at a replica, as the proto of its service defines it.

    Args:
        step: step of a request.
        models: models that the replica has open.
    """
    if step.model_version and step.model_version not in models:
        return NotServed(models)
    model = step.model_version or models[0]
    return Embedded(model) if isinstance(step, Embed) else Searched(model, models[0])


@dataclass(frozen=True)
class Rules:
    """The functions under check. A mutation replaces one of them by a wrapper around it.

    Attributes:
        step: State machine of a replica.
        exchange: State machine of a request in the client.
        served: Function from the live pointer to the bundles that a replica keeps open.
        answer: Function from a step of a request and the open models to the outcome of the step.
    """

    step: Callable[..., tuple[State, tuple[swap_policy.Decision, ...]]] = swap_policy.step
    exchange: Callable[[Pin], model_agreement.Exchange] = model_agreement.exchange
    served: Callable[[LivePointer], tuple[str, ...]] = lambda pointer: pointer.open_versions
    answer: Callable[[Step, Models], Outcome] = answer


def series(names: tuple[str, ...] | list[str]) -> str:
    """Returns the names with commas; "nothing" if there are none."""
    return ", ".join(names) or "nothing"
