"""Simulates a replica under load, from the measured cost of answering several calls at once.

A replica answers all calls that wait, up to a limit, as one batch, and then looks again. So its time for a call falls
under load, which a queue of single calls would not show. A call that finds the replica idle takes longer than one
behind another: cores sleep, and caches have been used by others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

LARGEST_BATCH = 64
"""Number of calls that a replica answers together at most; `ann_service.servicer.SearchItems.max_shared`."""


def batch_cost(measured: dict[int, float]) -> Callable[[int], float]:
    """Returns the time in seconds that a batch of some number of calls takes.

    Args:
        measured: time in seconds for one call, by the number of calls in the batch; in between, it is interpolated.
    """
    sizes = np.array(sorted(measured), dtype=np.float64)
    seconds = np.array([measured[int(size)] for size in sizes])
    return lambda size: size * float(np.interp(size, sizes, seconds))


def latencies(
    arrivals_s: np.ndarray,
    cost_s: Callable[[int], float],
    overhead_s: float,
    wake_s: float = 0.0,
    largest_batch: int = LARGEST_BATCH,
) -> np.ndarray:
    """Returns the latency of each call at one replica: [n] float64, in seconds.

    Args:
        arrivals_s: [n] float64, ascending, time at which each call arrives.
        cost_s: time that a batch takes, by its size; see `batch_cost`.
        overhead_s: time of a call outside of the replica's queue and work: network, client.
        wake_s: time that a batch takes in addition if the replica was idle before it.
        largest_batch: most calls that are answered together.
    """
    ended = np.empty(len(arrivals_s))
    waiting: deque[int] = deque()
    now, following = 0.0, 0
    while following < len(arrivals_s) or waiting:
        was_idle = not waiting and arrivals_s[following] >= now
        if was_idle:
            now = float(arrivals_s[following])
        while following < len(arrivals_s) and arrivals_s[following] <= now:
            waiting.append(following)
            following += 1
        batch = [waiting.popleft() for _ in range(min(largest_batch, len(waiting)))]
        now += cost_s(len(batch)) + wake_s * was_idle
        ended[batch] = now
    return ended - arrivals_s + overhead_s


def poisson(rate: float, seconds: float, seed: int = 1) -> np.ndarray:
    """Returns random times of arrival at a rate per second, for some seconds: [n] float64, ascending."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1.0 / rate, int(rate * seconds * 1.2) + 20)
    times = np.cumsum(gaps)
    return times[times < seconds]


def fanned_out(arrivals_s: np.ndarray, shards: int, cost_s: Callable[[int], float], overhead_s: float) -> np.ndarray:
    """Returns the latency of each query that waits for the slowest of all shards: [n] float64, in seconds.

    The shards see the same queries at the same moments, each with its own jitter of up to the cost of a call.
    """
    generator = np.random.default_rng(7)
    slowest = np.zeros(len(arrivals_s))
    for _ in range(shards):
        jitter = generator.uniform(0.0, cost_s(1), len(arrivals_s))
        order = np.argsort(arrivals_s + jitter)
        found = np.empty(len(arrivals_s))
        found[order] = latencies((arrivals_s + jitter)[order], cost_s, overhead_s) + jitter[order]
        slowest = np.maximum(slowest, found)
    return slowest
