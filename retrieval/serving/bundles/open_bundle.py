"""The state of the open bundles that a request sees: one immutable snapshot."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class OpenBundle(Generic[T]):
    """A bundle that can answer requests.

    Attributes:
        version: bundle version.
        bundle: object that the service's loader returned for this version.
        opened_at_ms: time from which requests could reach it, in milliseconds since 1970-01-01 UTC.
    """

    version: str
    bundle: T = field(compare=False)
    opened_at_ms: int


@dataclass(frozen=True)
class Problem:
    """A bundle that the store names and that is not open, with the reason.

    Attributes:
        version: bundle version; empty where the store itself is at fault.
        gate: name of the check that refused it.
        message: what was wrong, what was expected, and what to do.
        refused_at_ms: time of the refusal, in milliseconds since 1970-01-01 UTC.
    """

    version: str
    gate: str
    message: str
    refused_at_ms: int


@dataclass(frozen=True)
class Snapshot(Generic[T]):
    """The open bundles at one moment. Immutable, so that a request sees one state from start to end.

    Attributes:
        open: the open bundles. The first one answers requests that name no version.
        live_version: version that the store names as live; empty where it names none.
        loading_version: version that is being loaded; empty where none is.
        problems: bundles that the store names and that are not open.
    """

    open: tuple[OpenBundle[T], ...] = ()
    live_version: str = ""
    loading_version: str = ""
    problems: tuple[Problem, ...] = ()


def now_ms() -> int:
    """Returns the current time in milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000
