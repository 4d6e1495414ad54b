"""A served system that answers searches, the process that calls it, and its measurements."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.pair.load import cpu_s
from benchmarks.timing import spread
from testbed.services import ROOT

_GRACE_S = 120.0


class CallerFailed(Exception):
    """The process that calls a system ended, or did not answer in time."""


class Caller:
    """Context in which a process of `benchmarks.services.weaviate.caller` runs.

    Args:
        python: Interpreter that has the client of the system.
        options: Options of the process.
    """

    def __init__(self, python: str | Path, options: Sequence[str]) -> None:
        self._command = [str(python), "-m", "benchmarks.services.weaviate.caller", *options]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Starts the process."""
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_GRACE_S)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    def ask(self, command: dict[str, Any], seconds: float = 0.0) -> Any:
        """Returns the answer of the process to a command.

        Args:
            command: command, as `benchmarks.services.weaviate.caller` describes it.
            seconds: time that the command takes in any case; the process is killed two minutes after it.

        Raises:
            CallerFailed: the process ended, or was killed.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds + _GRACE_S, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            raise CallerFailed(
                f"no answer to {command} within {seconds + _GRACE_S:.0f} s, or before; see the lines above"
            )
        return json.loads(line)


@dataclass(frozen=True)
class Round:
    """Measurements of one round.

    Attributes:
        rate: Searches per second.
        median_ms: Median time of a search, in ms.
        p99_ms: 99th percentile of the times, in ms.
        caller_us: CPU time of the calling process per search, in µs.
        served_us: CPU time of the server per search, in µs.
    """

    rate: float
    median_ms: float
    p99_ms: float
    caller_us: float
    served_us: float


@dataclass
class Contender:
    """A served system, and how it is called.

    Attributes:
        name: Name in the table.
        caller: Process that calls it.
        pids: Process ids of the server.
        recall: Recall@k of the answers by number of callers, 0 to 1.
        rounds: Measurements so far by number of callers.
    """

    name: str
    caller: Caller
    pids: Sequence[int]
    recall: dict[int, float] = field(default_factory=dict[int, float])
    rounds: dict[int, list[Round]] = field(default_factory=dict[int, list[Round]])

    def measure(self, callers: int, seconds: float) -> None:
        """Adds a round with a number of callers, after a short one that does not count."""
        self.caller.ask({"load": 0.3, "callers": callers})
        before = cpu_s(self.pids)
        found = self.caller.ask({"load": seconds, "callers": callers}, seconds)
        served, count = cpu_s(self.pids) - before, found["count"]
        self.rounds.setdefault(callers, []).append(
            Round(
                count / found["seconds"],
                found["median_ms"],
                found["p99_ms"],
                found["cpu_s"] / count * 1e6,
                served / count * 1e6,
            )
        )


def to_rows(contenders: Sequence[Contender], peer: Contender) -> list[list[str]]:
    """Returns the rows of the table, by number of callers.

    Args:
        contenders: measured contenders.
        peer: the one of them that the others are compared with, in the same round.
    """
    rows: list[list[str]] = []
    for callers in peer.rounds:
        for each in contenders:
            rounds = each.rounds[callers]
            pairs = list(zip(rounds, peer.rounds[callers], strict=True))
            rates = [own.rate / other.rate for own, other in pairs]
            cpu = [(own.served_us + own.caller_us) / (other.served_us + other.caller_us) for own, other in pairs]
            rows.append(
                [
                    str(callers),
                    each.name,
                    f"{each.recall[callers]:.3f}",
                    spread([own.rate for own in rounds], ",.0f"),
                    "" if each is peer else spread(rates, ".2f"),
                    f"{statistics.median(own.median_ms for own in rounds):.1f}",
                    f"{statistics.median(own.p99_ms for own in rounds):.1f}",
                    spread([own.served_us for own in rounds], ",.0f"),
                    f"{statistics.median(own.caller_us for own in rounds):,.0f}",
                    "" if each is peer else f"{statistics.median(cpu):.2f}",
                ]
            )
    return rows


def environment() -> dict[str, str]:
    """Returns the environment of the processes that call: it lets them import this project from its checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients")])}
