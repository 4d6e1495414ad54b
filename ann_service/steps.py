"""Work in steps, so that a server can run other calls between them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work that yields after each step of about 1 ms at most, and returns its result."""


def run(steps: Steps[Result]) -> Result:
    """Runs work to its end without a pause, and returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
