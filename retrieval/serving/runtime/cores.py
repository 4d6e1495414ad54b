"""CPU cores: how many this process may use, and pinning to one of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")

_ALLOWED = frozenset(os.sched_getaffinity(0))
"""Cores in the affinity of this process, before it is pinned to one."""

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables from which numeric libraries read the size of their thread pools, when they are loaded."""


def available_cores(quota_file: Path = _QUOTA_FILE) -> int:
    """Returns the number of cores that the affinity of this process and its CPU quota allow, at least 1.

    A container that may use two of 64 cores has all 64 in its affinity; the limit is in the quota alone.

    Args:
        quota_file: file of cgroup v2 with quota and period in µs, or ``max`` and period. Without a readable file there
            is no quota.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not in a container, or "max"
        return cores


def quota_covers_all_cores() -> bool:
    """Returns whether the CPU quota covers all visible cores. Only then does a pinned worker have a core for itself."""
    return available_cores() == len(_ALLOWED)


def pin(worker: int) -> None:
    """Pins the calling thread, and the threads that it starts later, to one core. Call it before other threads start.

    The GIL lets one thread run at a time. On one core the next thread finds warm caches, and no wake-up crosses to
    another core: a call takes a fifth less CPU time, and the tail latency is shorter.

    Args:
        worker: number of this worker process, from 1 on; if there are more workers than cores, workers share cores.
    """
    cores = sorted(_ALLOWED)
    os.sched_setaffinity(0, {cores[(worker - 1) % len(cores)]})


def unpin_thread() -> None:
    """Lets the calling thread run on every core again, for long work that releases the GIL."""
    os.sched_setaffinity(0, _ALLOWED)


def library_threads(workers: int) -> int:
    """Returns the number of threads that numeric libraries may use in each of `workers` processes, at least 1."""
    return max(1, available_cores() // workers)
