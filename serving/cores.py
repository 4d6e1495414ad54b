"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")

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


def library_threads(workers: int) -> int:
    """Returns how many threads the numeric libraries of one of `workers` processes may use, at least 1."""
    return max(1, available_cores() // workers)
