"""Chooses candidates so that they differ: maximal marginal relevance, and limits on groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ann_service.reranking.attribute_values import AttributeValues
from retrieval.steps import Steps

_PRODUCTS_PER_STEP = 1_000_000
"""Number of multiplications of one step: about a millisecond at most."""

_FIXED_PRODUCTS = 50_000
"""What choosing one item costs beside the products, in multiplications."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of n candidates by an attribute, of which each takes only so many items.

    Attributes:
        values: Values of the attribute at the candidates; each distinct one is a group.
        max_group_size: Largest number of items of a group, at least 1.
    """

    values: AttributeValues
    max_group_size: int


@dataclass(frozen=True, eq=False)
class Chosen:
    """The candidates that were chosen.

    Attributes:
        positions: [n] int64, distinct positions of candidates, in the order of the choice.
        marginal_relevances: [n] float32, marginal relevance of each when it was chosen.
    """

    positions: np.ndarray
    marginal_relevances: np.ndarray


def choose(
    relevances: np.ndarray, vectors: np.ndarray, k: int, diversity: float, groups: Sequence[Groups] = ()
) -> Steps[Chosen]:
    """Returns up to `k` candidates, chosen one after the other. Takes time in proportion to k times n.

    The next one is the candidate with the largest marginal relevance (1 - diversity) * relevance - diversity * s, where
    s is its largest cosine similarity with a candidate that was chosen before, and 0 for the first (Carbonell and
    Goldstein 1998, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries"). Of
    equal ones, the first is chosen. Candidates in a full group are passed over. Fewer than `k` and n are chosen only if
    all others are in full groups.

    Args:
        relevances: [n] float, relevance of each candidate.
        vectors: [n, dimension] float32, unit length; not read if `diversity` is 0.
        k: number of candidates to choose, at least 1.
        diversity: weight of diversity against relevance, 0 to 1.
        groups: limits on groups.
    """
    count = len(relevances)
    own = ((1.0 - diversity) * relevances).astype(np.float32)  # [n]; -inf: chosen, or in a full group
    marginal = own.copy() if diversity else own  # [n]
    nearest = np.full(count, -np.inf, dtype=np.float32)  # [n], largest similarity with what was chosen
    similar = np.empty(count, dtype=np.float32)
    limited = [_Filling(each, count) for each in groups]
    at_once = max(1, _PRODUCTS_PER_STEP // (_FIXED_PRODUCTS + (vectors.size if diversity else count)))
    positions: list[int] = []
    values: list[float] = []
    for number in range(min(k, count)):
        best = int(marginal.argmax())  # the first of equal ones
        value = float(marginal[best])
        if value == -np.inf:
            break
        positions.append(best)
        values.append(value)
        own[best] = -np.inf
        for each in limited:
            each.add(best, own)
        if diversity:
            np.matmul(vectors, vectors[best], out=similar)
            np.maximum(nearest, similar, out=nearest)
            np.multiply(nearest, np.float32(-diversity), out=marginal)
            marginal += own
        if number % at_once == at_once - 1:
            yield
    return Chosen(np.array(positions, dtype=np.int64), np.array(values, dtype=np.float32))


class _Filling:
    """The groups of an attribute while they fill."""

    def __init__(self, groups: Groups, count: int) -> None:
        values, self._codes = np.unique(groups.values.numbers, return_inverse=True)  # [m] code of each pair
        self._positions = groups.values.positions
        self._starts = np.searchsorted(self._positions, np.arange(count + 1))
        self._left = [groups.max_group_size] * len(values)

    def add(self, position: int, own: np.ndarray) -> None:
        """Adds a candidate to its groups; sets `own`, [n], to -inf for all candidates of a group that is now full."""
        for code in self._codes[self._starts[position] : self._starts[position + 1]].tolist():
            self._left[code] -= 1
            if not self._left[code]:
                own[self._positions[self._codes == code]] = -np.inf
