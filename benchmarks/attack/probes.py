"""What an operator sees during an attack: health, status, refusals and memory, measured by threads of the harness."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import psutil

from benchmarks.attack.services import HEALTH, METHOD, STATUS, Setup, call, pid_of
from testbed.services import Replica

MIB = 1 << 20
_INTERVAL_S, _TIMEOUT_S = 0.15, 2.0


class _Watch:
    """Context in which a thread repeats something."""

    def __init__(self, step: Callable[[], None], interval_s: float) -> None:
        self._step, self._interval_s = step, interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the thread after its current step."""
        self._done.set()
        self._thread.join(3 * _TIMEOUT_S)

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            self._step()


class Probes(_Watch):
    """Context in which health, status and a call without a token are tried every 0.15 s, each on a new connection.

    Attributes:
        seconds: Durations of the tries by name: ``health``, ``status`` and ``refusal``; infinity for one that failed.
    """

    def __init__(self, setup: Setup, replica: Replica) -> None:
        """Prepares the probes of a replica."""
        super().__init__(self._try_all, _INTERVAL_S)
        self._address = replica.address
        self._tries = {
            "health": (HEALTH, (), "OK"),
            "status": (STATUS[replica.service], setup.metadata, "OK"),
            "refusal": (METHOD[replica.service], (), "UNAUTHENTICATED"),
        }
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def worst_ms(self, name: str) -> float:
        """Returns the longest duration of the tries with a name, in ms; infinity if one failed or none was made."""
        return 1e3 * max(self.seconds[name], default=float("inf"))

    def _try_all(self) -> None:
        for name, (method, metadata, expected) in self._tries.items():
            began = time.monotonic()
            code = call(self._address, method, b"", _TIMEOUT_S, metadata)
            self.seconds[name].append(time.monotonic() - began if code == expected else float("inf"))


class Memory(_Watch):
    """Context in which the resident memory of a process is sampled every 10 ms.

    Attributes:
        start: Resident memory at the beginning, in bytes.
        most: Largest resident memory so far, in bytes.
    """

    def __init__(self, replica: Replica) -> None:
        """Prepares the samples of a replica's process."""
        super().__init__(self._sample, 0.01)
        self._process = psutil.Process(pid_of(replica))
        self.start = self.most = self.now

    @property
    def now(self) -> int:
        """Resident memory now in bytes; 0 if the process has ended."""
        with suppress(psutil.Error):
            return self._process.memory_info().rss
        return 0

    @property
    def growth_mib(self) -> float:
        """Largest growth so far, in MiB; infinity if the process has ended."""
        return (self.most - self.start) / MIB if self.now else float("inf")

    def settle_mib(self, limit_mib: float, timeout_s: float) -> float:
        """Waits until the growth is at most `limit_mib`, or for `timeout_s`, and returns the growth in MiB.

        It is infinity if the process has ended.
        """
        end = time.monotonic() + timeout_s
        while (growth := (self.now - self.start) / MIB) > limit_mib and time.monotonic() < end:
            time.sleep(0.05)
        return growth if self.now else float("inf")

    def _sample(self) -> None:
        self.most = max(self.most, self.now)
