"""A search of a request, validated and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ann_service.bitsets import Matches


@dataclass(frozen=True)
class TextQuery:
    """The text to rank items by; see `ann_service.fusion`.

    Attributes:
        value: Text of the search.
        fused: Whether the ranking by text is fused with the ranking by embedding; if not, the text alone ranks.
        fusion_constant: Constant of reciprocal rank fusion, at least 1.
    """

    value: str
    fused: bool
    fusion_constant: int


class SearchPlan(NamedTuple):
    """A validated search. A tuple, because it is quick to make and each search of a request has one.

    Attributes:
        query: Query embedding, [dimension] float32, unit length; [0] if the text or the popularity alone ranks.
        k: Number of items to return, at least 1.
        allowed: Items that match the filter; None: all items.
        excluded: [n] int64, rows to leave out, distinct, ascending.
        min_score: Lowest score to return; None: no limit.
        exact: Whether to use the exact scan instead of the index.
        budget: Search budget of the index for `k` items.
        return_attributes: Names of the item attributes to return.
        text: Text to rank by; None: the embedding alone ranks.
        is_popular: Whether the popularity of the items ranks, and neither the embedding nor a text.
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
    is_popular: bool = False

    @property
    def is_unrestricted(self) -> bool:
        """Whether the search has no filter, no exclusions and no lowest score."""
        if self.allowed is not None or len(self.excluded):
            return False
        return self.min_score is None

    def is_excluded(self, rows: np.ndarray) -> np.ndarray:
        """Returns which of `rows`, [n] int64, are in `excluded`: [n] bool."""
        if not len(self.excluded):
            return np.zeros(len(rows), dtype=bool)
        positions = np.minimum(np.searchsorted(self.excluded, rows), len(self.excluded) - 1)
        return self.excluded[positions] == rows  # [n]
