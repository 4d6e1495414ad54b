"""The result of one search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """The rows that a search returns, best first.

    Attributes:
        rows: [n] int64, distinct rows of the catalogue.
        scores: [n] float32, larger is better, descending.
    """

    rows: np.ndarray
    scores: np.ndarray
