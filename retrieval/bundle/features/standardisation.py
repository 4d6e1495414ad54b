"""Numbers as inputs of a tower: the standardised value, and whether it is present."""

from __future__ import annotations

import math

import numpy as np

EXTREME = 10.0
"""Standardised values are clipped to [-10, 10], so that an outlier cannot dominate a tower."""


def check_scale(name: str, mean: float, std: float) -> None:
    """Checks the mean and standard deviation that a feature is standardised with.

    Raises:
        ValueError: one of them is not finite, or the standard deviation is not above 0.
    """
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"feature {name}: mean {mean} and std {std} have to be finite, std above 0")


def standardise(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Returns (value - mean) / std, clipped to ±`EXTREME`, and presence: [..., 2] float32 for [...] float64."""
    return with_presence(np.minimum(np.maximum((values - mean) / std, -EXTREME), EXTREME))


def with_presence(values: np.ndarray) -> np.ndarray:
    """Returns (value, 1), or (0, 0) for NaN, which is missing: [..., 2] float32 for [...] float64."""
    present = values == values
    encoded = np.zeros((*values.shape, 2), dtype=np.float32)
    np.copyto(encoded[..., 0], values, where=present, casting="same_kind")
    encoded[..., 1] = present
    return encoded
