"""What the machine takes away: pauses of a core that has work to do, which no program on it can help.

A shared host runs other machines too, and says nothing of it: its steal time may be zero all the while.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

PAUSE_S = 0.0005
"""A pause is longer than this."""


def pauses(seconds: float, cores: Sequence[int] = ()) -> tuple[float, float]:
    """Keeps cores busy for so long, and returns pauses a second and core, and their share of time.

    Args:
        seconds: above 0.
        cores: one for each program that keeps it busy. Default: those of this process.
    """
    cores = cores or sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-c", "import bench.host; bench.host.spin()", str(seconds)]
    spinning = [subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE, text=True) for core in cores]
    found = [[float(word) for word in process.communicate()[0].split()] for process in spinning]
    in_all = seconds * len(cores)
    return sum(count for count, _ in found) / in_all, sum(lost_s for _, lost_s in found) / in_all


def spin() -> None:
    """Prints how many pauses a core made, and their seconds; arguments: for how long, which core."""
    seconds, core = float(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {core})
    count, lost_s = 0, 0.0
    last = started = time.perf_counter()
    while last - started < seconds:
        now = time.perf_counter()
        if now - last > PAUSE_S:
            count += 1
            lost_s += now - last
        last = now
    print(count, lost_s)
