"""Tries odd inputs on every target for minutes, and prints the smallest input of each failure: `make fuzz`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import structlog

from tests.fuzz.files import file_targets
from tests.fuzz.inputs import Choices, Target
from tests.fuzz.rpcs import rpc_targets
from tests.fuzz.tables import table_targets

_ROUND = 500
"""Number of inputs of one target before the next target is tried."""
_SHRINK_TRIES = 5000
_MEMORY = Path("/dev/shm")
"""Folder in memory, where one exists: a store flushes each change to disk."""


def make_input(target: Target, numbers: Sequence[int]) -> Any:
    """Returns the input of a target that is made from some numbers; further ones are 0."""
    rest = iter(numbers)
    return target.make(Choices(lambda n: min(next(rest, 0), n - 1)))


def error_of(target: Target, numbers: Sequence[int]) -> Exception | None:
    """Returns the error that a target raises for the input that is made from some numbers; None if it raises none."""
    try:
        target.check(make_input(target, numbers))
    except Exception as error:
        return error
    return None


def shrink(numbers: list[int], is_failing: Callable[[list[int]], bool]) -> list[int]:
    """Returns a short list of small numbers that still fails.

    Args:
        numbers: Numbers that fail.
        is_failing: Function that returns whether other numbers fail too.
    """
    tries, changed = 0, True
    while changed:
        changed = False
        for size in (64, 8, 4, 2, 1, 0):  # runs of numbers to leave out; with size 0, a number becomes smaller
            position = 0
            while position < len(numbers):
                head, number, tail = numbers[:position], numbers[position], numbers[position + max(size, 1) :]
                smaller = (
                    [head + tail]
                    if size
                    else [[*head, n, *tail] for n in (0, number // 2, number - 1) if 0 <= n < number]
                )
                tries += len(smaller)
                if tries > _SHRINK_TRIES:
                    return numbers
                found = next(filter(is_failing, smaller), None)
                if found is None:
                    position += 1
                else:
                    numbers, changed = found, True
    return numbers


@dataclass
class _Progress:
    """What was tried on a target.

    Attributes:
        target: The target.
        seed: Seed of the inputs.
        inputs: Number of inputs that were tried.
        seconds: Time spent on it.
        has_failed: Whether an input failed; no more are tried then.
    """

    target: Target
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    has_failed: bool = False

    def run_round(self, length: int) -> None:
        """Tries so many inputs, and prints the smallest one that fails if one does."""
        began = time.monotonic()
        for _ in range(length):
            self.inputs += 1
            numbers: list[int] = []
            random = Random(f"{self.seed} {self.inputs}")

            def below(n: int, numbers: list[int] = numbers, random: Random = random) -> int:
                numbers.append(random.randrange(n))
                return numbers[-1]

            try:
                self.target.check(self.target.make(Choices(below)))
            except Exception as error:
                self._report(numbers, error)
                break
        self.seconds += time.monotonic() - began

    def _report(self, numbers: list[int], error: Exception) -> None:
        self.has_failed = True
        kind = type(error)
        numbers = shrink(numbers, lambda smaller: type(error_of(self.target, smaller)) is kind)
        lines = traceback.format_exception(error_of(self.target, numbers) or error, chain=False)
        print(
            f"\n{self.target.name} fails\n{''.join(lines)}smallest input: {make_input(self.target, numbers)!r}",
            flush=True,
        )


def try_all(targets: Sequence[Target], seed: int, minutes: float, examples: int | None = None) -> int:
    """Tries inputs on all targets, each for the same time, and prints failures and a table.

    Args:
        targets: Targets to try.
        seed: Seed of the inputs.
        minutes: Length of the campaign.
        examples: Number of inputs for each target, instead of a length.

    Returns:
        Exit status: 1 if an input failed, else 0.
    """
    all_progress = [_Progress(target, seed) for target in targets]
    end = time.monotonic() + minutes * 60
    print(f"{len(targets)} targets, seed {seed}", flush=True)

    def left_of(progress: _Progress) -> int:
        if progress.has_failed:
            return 0
        left = (_ROUND if time.monotonic() < end else 0) if examples is None else examples - progress.inputs
        return min(left, _ROUND)

    while left := [progress for progress in all_progress if left_of(progress)]:
        progress = min(left, key=lambda progress: progress.seconds)
        progress.run_round(left_of(progress))
    _print_table(all_progress)
    return int(any(progress.has_failed for progress in all_progress))


def main() -> int:
    """Runs the campaign that the command line describes, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the campaign, shared by all targets")
    parser.add_argument("--examples", type=int, help="number of inputs for each target, instead of a length")
    parser.add_argument("--only", default="", help="only targets whose name contains this text")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 10**9, help="seed of the inputs. Default: the clock"
    )
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        files = Path(folder) / "files"
        files.mkdir()
        with rpc_targets(Path(folder) / "rpcs") as rpcs:
            targets = [
                target for target in (*rpcs, *file_targets(files), *table_targets(files)) if options.only in target.name
            ]
            return try_all(targets, options.seed, options.minutes, options.examples)


def _print_table(all_progress: Sequence[_Progress]) -> None:
    row = "{:<24} {:>12} {:>10} {:>10}  {}"
    print(row.format("target", "inputs", "seconds", "inputs/s", "verdict"))
    for progress in all_progress:
        rate = f"{progress.inputs / max(progress.seconds, 1e-9):,.0f}"
        verdict = "FAILED" if progress.has_failed else "holds"
        print(row.format(progress.target.name, f"{progress.inputs:,}", f"{progress.seconds:.0f}", rate, verdict))
    total, seconds = sum(p.inputs for p in all_progress), sum(p.seconds for p in all_progress)
    failed = sum(p.has_failed for p in all_progress)
    print(row.format("all", f"{total:,}", f"{seconds:.0f}", f"{total / max(seconds, 1e-9):,.0f}", f"{failed} failed"))


if __name__ == "__main__":
    sys.exit(main())
