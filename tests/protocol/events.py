"""Describes the events of the protocol check in words, for its traces."""

from __future__ import annotations

from retrieval.serving.bundles.swap_policy import GraceElapsed, LoadFinished, LoadRefused, PointerChanged, RetryDue
from retrieval.store.live import LivePointer
from tests.protocol.world import Restart
from two_tower_client.model_agreement import Embedded, NotServed, Outcome


def describe(event: object) -> str:
    """Returns a description of an event of a replica, the store or the client."""
    match event:
        case (str() as what, LivePointer() as pointer):
            return f"{what}: {pointer.version} is live, before it {', '.join(pointer.previous) or 'nothing'}"
        case (step, None):
            return f"{step} -> nobody answers"
        case (step, outcome):
            return f"{type(step).__name__}({step.model_version or 'any'}) -> {_describe_outcome(outcome)}"
        case PointerChanged():
            return "reads the pointer"
        case LoadFinished(version):
            return f"has loaded {version}"
        case LoadRefused(version):
            return f"refuses {version}"
        case RetryDue(version):
            return f"may try {version} again"
        case GraceElapsed(version):
            return f"ends the grace of {version}"
        case Restart():
            return "restarts"
        case _:
            return f"asks for {event or 'any model'} first"


def _describe_outcome(outcome: Outcome) -> str:
    if isinstance(outcome, NotServed):
        return f"not served, open are {', '.join(outcome.model_versions)}"
    return (
        f"embedding of {outcome.model_version}"
        if isinstance(outcome, Embedded)
        else (f"answer from {outcome.model_version}, newest {outcome.newest_model_version}")
    )
