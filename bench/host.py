"""What the machine takes away: moments in which a core runs nothing, which no program on it can help.

A shared host runs other machines too, and says nothing of it: its steal time may be zero all the while. So a process of
real-time priority on each core sleeps for half a millisecond, time and again. No program of a usual priority goes
before it: where it wakes late, the host had the core.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

PAUSE_S = 0.0002
"""A core that wakes its watcher later than this made a pause."""

AFTERWARDS_S = 0.05
"""So long after a pause the calls that piled up are still being answered."""

_SLEEP_S = 0.0005
_PRIORITY = 50


@dataclass(eq=False)
class Pauses:
    """Of the cores, while they were watched.

    Attributes:
        watched_s: seconds times cores; 0 where they could not be watched.
        spans: [pauses, 2], float64, when each began (up to `_SLEEP_S` early) and ended, in seconds since the epoch.
    """

    watched_s: float = 0.0
    spans: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def per_second(self) -> float:
        """Pauses a second of one core; NaN where it is not known."""
        return len(self.spans) / self.watched_s if self.watched_s else float("nan")

    def spared(self, began: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Returns which calls no pause touched: none while they were under way, none in the 50 ms before.

        Args:
            began: [calls], float64, in seconds since the epoch.
            ended: [calls], float64, likewise.

        Returns:
            [calls], bool; all False where cores could not be watched.
        """
        spared = np.full(len(began), self.watched_s > 0)
        for first, last in self.spans:
            spared &= (ended < first) | (began > last + AFTERWARDS_S)
        return spared


@contextmanager
def watched(cores: Sequence[int] = ()) -> Iterator[Pauses]:
    """Watches cores, which takes 5 % of each; what it yields is filled in at the end, where this user may watch.

    Args:
        cores: to watch. Default: those of this process.
    """
    cores = cores or sorted(os.sched_getaffinity(0))
    found, refusal = Pauses(), ""
    with ExitStack() as stack:
        watchers: list[subprocess.Popen[str]] = []
        for core in cores:
            command = [sys.executable, "-c", "import bench.host; bench.host.watch()", str(core)]
            watcher = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(watcher.kill)
            watchers.append(watcher)
        for watcher in watchers:
            assert watcher.stdout is not None
            refusal = watcher.stdout.readline().strip() or refusal
        began = time.monotonic()
        yield found
        if refusal:
            print(f"pauses of the host are not seen: {refusal}", file=sys.stderr)
            return
        found.watched_s = (time.monotonic() - began) * len(cores)
        for watcher in watchers:
            watcher.terminate()
        spans = [span for watcher in watchers for span in json.loads(watcher.communicate()[0])]
        found.spans = np.array(spans).reshape(-1, 2)


def watch() -> None:
    """Watches the core that the first argument names until SIGTERM, then prints its pauses as JSON.

    The first line is empty, or says why it cannot.
    """
    os.sched_setaffinity(0, {int(sys.argv[1])})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError as error:
        print(f"real-time priority: {error.strerror} (needs root, or CAP_SYS_NICE)", flush=True)
        return
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    print(flush=True)
    spans: list[tuple[float, float]] = []
    last = time.time()
    while not ending:
        time.sleep(_SLEEP_S)
        now = time.time()
        if now - last > _SLEEP_S + PAUSE_S:
            spans.append((last, now))
        last = now
    print(json.dumps(spans))
