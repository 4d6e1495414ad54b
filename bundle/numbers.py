"""Numbers as the towers read them: standardised, and whether they are there at all."""

from __future__ import annotations

import math

import numpy as np

EXTREME = 10.0
"""Standard deviations beyond which a number says "extreme" and nothing more; it must not blow up the tower."""


def check_scale(name: str, mean: float, std: float) -> None:
    """Checks what a feature is standardised with.

    Raises:
        ValueError: a number is not finite, or the standard deviation not above 0.
    """
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"feature {name}: mean {mean} and std {std} have to be finite, std above 0")


def standardise(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Returns (value - mean) / std, at most `EXTREME` from 0, and presence: [..., 2] float32 of [...] float64."""
    return with_presence(np.minimum(np.maximum((values - mean) / std, -EXTREME), EXTREME))


def with_presence(values: np.ndarray) -> np.ndarray:
    """Returns value and 1, or (0, 0) where NaN says that it is missing: [..., 2] float32 of [...] float64."""
    present = values == values
    encoded = np.zeros((*values.shape, 2), dtype=np.float32)
    np.copyto(encoded[..., 0], values, where=present, casting="same_kind")
    encoded[..., 1] = present
    return encoded
