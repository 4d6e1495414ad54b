"""How sure a mean over users is (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13)."""

from __future__ import annotations

import numpy as np

_CELLS = 2**22
"""Draws held at once: 32 MiB of indices."""


def bootstrap(values: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Returns low and high of the 95 % percentile interval of the mean.

    Args:
        values: [n] float, one a user, n above 0.
        resamples: users drawn with replacement, so many times.
        seed: of the draws: the same for all metrics, so that they are of the same users.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values to bootstrap; evaluate at least one user")
    generator = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    step = max(1, _CELLS // len(values))
    means = [
        values[generator.integers(0, len(values), (min(step, resamples - done), len(values)))].mean(axis=1)
        for done in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def paired(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the mean of ``first - second`` on the same users, and low and high of its 95 % interval.

    Args:
        first: [n] float, one a user.
        second: [n] float, of the same users in the same order.
        resamples: as of `bootstrap`.
        seed: likewise.

    Raises:
        ValueError: they are not of the same users.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values; a paired difference needs the same users")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return (float(difference.mean()), *bootstrap(difference, resamples=resamples, seed=seed))
