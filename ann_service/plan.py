"""What a search asks for, validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ann_service.bitsets import Matches


@dataclass(frozen=True)
class TextQuery:
    """What to rank by the words of, see `ann_service.fusion`.

    Attributes:
        value: what was typed.
        fused: with the ranking by embedding; else the words rank alone.
        fusion_constant: of reciprocal-rank fusion, at least 1.
    """

    value: str
    fused: bool
    fusion_constant: int


class SearchPlan(NamedTuple):
    """A search, validated. A tuple, since one is made for each search.

    Attributes:
        query: [dimension] float32, unit length; [0] where words rank alone.
        k: how many items, at least 1.
        allowed: what the filter lets through; None: all.
        excluded: [n] int64, distinct rows to leave out, ascending.
        min_score: the least score; None: no limit.
        exact: scan.
        budget: of the index, for `k` items.
        return_attributes: names of attributes to send along.
        text: to rank by; None: the embedding ranks.
    """

    query: np.ndarray
    k: int
    allowed: Matches | None
    excluded: np.ndarray
    min_score: float | None
    exact: bool
    budget: int
    return_attributes: tuple[str, ...] = ()
    text: TextQuery | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is left out."""
        if self.allowed is not None or len(self.excluded):
            return False
        return self.min_score is None

    def leaves_out(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, are excluded: [n] bool."""
        if not len(self.excluded):
            return np.zeros(len(rows), dtype=bool)
        positions = np.minimum(np.searchsorted(self.excluded, rows), len(self.excluded) - 1)
        return self.excluded[positions] == rows
