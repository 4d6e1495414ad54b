"""Work that can be paused: a generator that yields about every millisecond, and returns its result at the end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields after each short step, and returns its result."""


def run_to_end(steps: Steps[T]) -> T:
    """Runs work without a pause and returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
