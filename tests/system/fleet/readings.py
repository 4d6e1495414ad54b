"""Reads a running fleet: how many calls each replica has answered, and what the clients saw."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.services import PairError

METHODS = {"query_tower_service": "EmbedQueries", "ann_service": "SearchItems"}
"""Method whose answers are counted, by package of the service."""

_INTERVAL_S = 0.5
_WINDOW_S = 5.0
_TIMEOUT_S = 0.4
_TICK_S = 0.05


def spread(answers: Sequence[int]) -> float:
    """Returns how far the replica with the least even share of the answers is from an even share.

    Args:
        answers: number of answers of each replica.

    Returns:
        Largest difference between a share and the even share, as a share of the even share: 0 if all are even. 1 if
        there are no answers at all.
    """
    even = sum(answers) / len(answers)
    return max(abs(count - even) for count in answers) / even if even else 1.0


class StallClock:
    """Context in which a thread measures how long this machine keeps a process waiting that could run.

    Attributes:
        longest_s: Longest delay with which the thread woke up so far, in seconds.
    """

    def __init__(self) -> None:
        """Prepares the thread; `__enter__` starts it."""
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        due_s = time.monotonic() + _TICK_S
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            self.longest_s = max(self.longest_s, time.monotonic() - due_s)
            due_s = time.monotonic() + _TICK_S


@dataclass(frozen=True)
class Endpoint:
    """Metrics of a replica.

    Attributes:
        service: Package of the service.
        url: URL of the metrics.
    """

    service: str
    url: str

    def read(self) -> int | None:
        """Returns the number of answered calls since the replica started; None if it does not say."""
        label = f'two_tower_requests_total{{code="OK",method="{METHODS[self.service]}"}} '
        try:
            with urllib.request.urlopen(self.url, timeout=_TIMEOUT_S) as response:
                lines = response.read().decode().splitlines()
        except OSError:
            return None
        return next((int(float(line.removeprefix(label))) for line in lines if line.startswith(label)), None)


class Sampler:
    """Context in which a thread reads the number of answers of each replica, twice a second.

    A restarted replica begins to count anew, and what a replica that cannot be reached counts is read later.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        """Prepares the thread; `__enter__` starts it."""
        self._endpoints = endpoints
        self._lock = threading.Lock()
        self._last: dict[Endpoint, int] = {}
        self._totals = dict.fromkeys(endpoints, 0)
        self._samples: list[tuple[float, dict[Endpoint, int]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(10)

    @property
    def sample_count(self) -> int:
        """Number of times that all replicas were read."""
        return len(self._samples)

    def answers(self, service: str, start_s: float, end_s: float) -> list[int]:
        """Returns the number of answers of each replica of a service between two times of the monotonic clock."""
        with self._lock:
            within = [totals for moment, totals in self._samples if start_s <= moment <= end_s]
        if not within:
            return [0] * sum(each.service == service for each in self._endpoints)
        return [within[-1][each] - within[0][each] for each in self._endpoints if each.service == service]

    def worst(self, start_s: float, end_s: float) -> float:
        """Returns the larger spread of the two services between two times of the monotonic clock."""
        return max(spread(self.answers(service, start_s, end_s)) for service in METHODS)

    def wait_until_even(self, limit: float, timeout_s: float) -> float | None:
        """Waits until the load is even over 5 s, and returns after how many seconds these began; None if not in time.

        Args:
            limit: largest spread that counts as even.
            timeout_s: longest time to wait, in seconds.
        """
        began_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + timeout_s + _WINDOW_S:
            if now_s > began_s + _WINDOW_S and self.worst(now_s - _WINDOW_S, now_s) <= limit:
                return now_s - _WINDOW_S - began_s
            time.sleep(0.25)
        return None

    def _run(self) -> None:
        with ThreadPoolExecutor(len(self._endpoints)) as threads:
            while not self._stop.wait(_INTERVAL_S):
                counts = list(threads.map(Endpoint.read, self._endpoints))
                for endpoint, count in zip(self._endpoints, counts, strict=True):
                    if count is None:
                        continue
                    last = self._last.get(endpoint, count)
                    self._totals[endpoint] += count - last if count >= last else count
                    self._last[endpoint] = count
                with self._lock:
                    self._samples.append((time.monotonic(), dict(self._totals)))


@dataclass
class Seen:
    """What the clients have seen so far.

    Attributes:
        sent: Number of requests.
        mixed: Number of answers that are not those of the bundle that they name.
        failures: Number of failed requests by error message.
        bundles: Number of answers by bundle version.
        latencies: For each answer the time of its arrival by the monotonic clock, and its latency, both in seconds.
    """

    sent: int = 0
    mixed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)

    def slowest_s(self, start_s: float, end_s: float) -> float:
        """Returns the longest latency of the answers that arrived between two times of the monotonic clock."""
        return max((latency for moment, latency in self.latencies if start_s <= moment <= end_s), default=0.0)

    def slower(self, than_s: float, start_s: float, end_s: float) -> list[float]:
        """Returns when answers that took longer than `than_s` seconds arrived between two times, sorted."""
        return sorted(moment for moment, latency in self.latencies if start_s <= moment <= end_s and latency > than_s)


class ClientProcess:
    """A client process, of which a thread reads what it prints.

    Attributes:
        process: The process.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        """Starts the process.

        Args:
            command: program and arguments.
            environment: environment of the process.
            log: file for what the process writes to its standard error.
        """
        pipe, self._log = subprocess.PIPE, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=file)
        self._line: dict[str, Any] = {"sent": 0, "mixed": 0, "failures": {}, "bundles": {}}
        self._latencies: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def add_to(self, seen: Seen) -> None:
        """Adds what this client has seen to `seen`.

        Raises:
            PairError: the process has failed.
        """
        if self.process.poll():
            lines = self._log.read_text(errors="replace").splitlines()[-5:]
            raise PairError("\n".join([f"a client ended with code {self.process.returncode}:", *lines]))
        line = self._line
        seen.sent += line["sent"]
        seen.mixed += line["mixed"]
        seen.failures.update(line["failures"])
        seen.bundles.update(line["bundles"])
        seen.latencies += self._latencies

    def finish(self) -> None:
        """Lets the requests in flight end, and waits for the process; kills it if that takes too long."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._thread.join(10)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line = json.loads(text)
            self._latencies += [(moment, latency) for moment, latency in line.pop("latencies")]
            self._line = line
