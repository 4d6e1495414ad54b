"""Simulates a replica under load, from the measured cost of answering several calls at once.

A replica answers all calls that wait, up to a limit, as one batch, and then looks again. So its time for a call falls
under load, which a queue of single calls would not show. A call that finds the replica idle takes longer than one
behind another: cores sleep, and caches have been used by others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np


def batch_cost(batch_s: Mapping[int, float], alone_s: float, at_once_s: float) -> tuple[Callable[[int], float], int]:
    """Returns the time in seconds that a batch takes by its number of calls, and the size of the largest batch.

    The work is measured without gRPC. What gRPC adds is a time for each call, which is seen where many callers keep the
    replica busy, and a time for each batch, which is the rest of what a lone caller sees.

    Args:
        batch_s: CPU time of the work of a batch in seconds, by its number of calls; in between, it is interpolated.
        alone_s: CPU time of the replica for a call of a lone caller, in seconds.
        at_once_s: CPU time of the replica for a call of more callers than the largest batch, in seconds.
    """
    sizes = np.array(sorted(batch_s), dtype=np.float64)
    seconds = np.array([batch_s[int(size)] for size in sizes])
    largest = int(sizes[-1])
    a_call_s = max(0.0, at_once_s - batch_s[largest] / largest)
    a_batch_s = max(0.0, alone_s - batch_s[1] - a_call_s)
    return lambda size: float(np.interp(size, sizes, seconds)) + a_batch_s + size * a_call_s, largest


def latencies(
    arrivals_s: np.ndarray,
    cost_s: Callable[[int], float],
    overhead_s: float,
    wake_s: float = 0.0,
    largest_batch: int = 14,
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
