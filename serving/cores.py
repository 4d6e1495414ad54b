"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")

_ALLOWED = frozenset(os.sched_getaffinity(0))
"""Cores that this process may use, before it is pinned to one."""

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What numeric libraries read, when they are loaded, for the size of their thread pools."""


def available_cores(quota_file: Path = _QUOTA_FILE) -> int:
    """Returns the cores that the affinity of this process and the CPU quota of its container leave, at least 1.

    A container that may use two of sixty-four cores sees all of them in its affinity; only the quota says so.

    Args:
        quota_file: of cgroup v2: quota and period in µs, or ``max`` and period. One that cannot be read is no limit.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or "max"
        return cores


def own_cores() -> int:
    """Returns the cores that the calling thread may run on: 1 once `pin` was called."""
    return len(os.sched_getaffinity(0))


def has_every_core() -> bool:
    """Returns whether no quota leaves this process fewer cores than it sees: then one of them can be a worker's own."""
    return available_cores() == len(_ALLOWED)


def pin(worker: int) -> None:
    """Keeps the calling thread, and those that it will start, on one core, so call it before there are others.

    The threads of a process of Python take turns at the GIL. On one core they find the caches as the last one left
    them, and no wake-up has to cross to another core: a call takes a fifth less CPU time, and the tail is shorter.

    Args:
        worker: its number, from 1 on; more workers than cores share them in turn.
    """
    cores = sorted(_ALLOWED)
    os.sched_setaffinity(0, {cores[(worker - 1) % len(cores)]})


def unpin_thread() -> None:
    """Lets the calling thread run on every core again: for long work without the GIL."""
    os.sched_setaffinity(0, _ALLOWED)


def library_threads(workers: int) -> int:
    """Returns how many threads the numeric libraries of one of `workers` processes may use, at least 1."""
    return max(1, available_cores() // workers)
