"""Bootstrap intervals of means over users (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).

`scipy.stats.bootstrap` gives the same intervals for three times the CPU time, as it gathers each drawn value where this
multiplies counts: 2.8 s against 1.0 s a call for 22,363 users and 12 metrics, of 14 s to score one method.
"""

from __future__ import annotations

import numpy as np

_CELLS = 2**22
"""Draws held at once: 32 MiB each of indices and counts."""


def bootstrap(values: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns low and high of the 95 % percentile interval of each mean: [2, m] float64.

    Args:
        values: [n, m] float, a row for each user, n above 0; the same users are drawn for all m.
        resamples: users drawn with replacement, so many times.
        seed: of the draws.

    Raises:
        ValueError: there are no users.
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
    """Returns the means of ``first - second`` on the same users, and low and high of their intervals: [3, m] float64.

    Args:
        first: [n, m] float, a row for each user.
        second: [n, m] float, of the same users in the same order.
        resamples: as of `bootstrap`.
        seed: likewise.

    Raises:
        ValueError: they are not of the same users.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} users; a paired difference needs the same ones")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return np.concatenate(
        [difference.mean(axis=0, keepdims=True), bootstrap(difference, resamples=resamples, seed=seed)]
    )
