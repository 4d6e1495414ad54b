"""Chooses candidates so that they differ: maximal marginal relevance, and limits on groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ann_service.reranking import attribute_values
from retrieval.bundle.catalogue.items import Column
from retrieval.steps import Steps

_PRODUCTS_PER_STEP = 1_000_000
"""Number of multiplications of one step: about a millisecond at most."""

_PRODUCTS_PER_CANDIDATE = 20_000
"""What looking at one candidate costs beside the products and values, in multiplications."""

_PRODUCTS_PER_VALUE = 200
"""What looking at one value of a candidate costs, in multiplications."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of n candidates by an attribute, of which each takes only so many items.

    Attributes:
        column: The attribute; each distinct value is a group.
        rows: [n] int64, rows of the candidates in the column.
        max_group_size: Largest number of items of a group, at least 1.
    """

    column: Column
    rows: np.ndarray
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
    """Returns up to `k` candidates, chosen one after the other. Pauses about every millisecond.

    The next one is the candidate with the largest marginal relevance (1 - diversity) * relevance - diversity * s, where
    s is its largest cosine similarity with a candidate that was chosen before, and 0 for the first (Carbonell and
    Goldstein 1998, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries"). Of
    equal ones, the first is chosen. Candidates in a full group are passed over. Fewer than `k` and n are chosen only if
    all others are in full groups.

    Looks at up to n candidates, at a cost of n each. With a diversity, each that is chosen costs n times the dimension
    too, hence the limit on k times n. The groups of a candidate are read when it would be the next, so that each value
    is read once at most.

    Args:
        relevances: [n] float, relevance of each candidate.
        vectors: [n, dimension] float32, unit length; not read if `diversity` is 0.
        k: number of candidates to choose, at least 1.
        diversity: weight of diversity against relevance, 0 to 1.
        groups: limits on groups.
    """
    count = len(relevances)
    own = ((1.0 - diversity) * relevances).astype(np.float32)  # [n]; -inf: chosen, or passed over
    marginal = own.copy() if diversity else own  # [n]
    nearest = np.full(count, -np.inf, dtype=np.float32)  # [n], largest similarity with what was chosen
    similar = np.empty(count, dtype=np.float32)
    filling = [_Filling(each) for each in groups]
    positions: list[int] = []
    values: list[float] = []
    products = 0  # of this step
    while len(positions) < min(k, count):
        best = int(marginal.argmax())  # the first of equal ones
        value = float(marginal[best])
        if value == -np.inf:
            break
        own[best] = marginal[best] = -np.inf  # chosen, or passed over
        held: list[set[float]] = []
        for each in filling:
            held.append(each.values_at(best))
            if not each.has_room(held[-1]):
                break
        else:
            for each, own_values in zip(filling, held, strict=True):
                each.add(own_values)
            positions.append(best)
            values.append(value)
            if diversity:
                np.matmul(vectors, vectors[best], out=similar)
                np.maximum(nearest, similar, out=nearest)
                np.multiply(nearest, np.float32(-diversity), out=marginal)
                marginal += own
                products += vectors.size + 3 * count
        products += count + _PRODUCTS_PER_CANDIDATE + _PRODUCTS_PER_VALUE * sum(map(len, held))
        if products >= _PRODUCTS_PER_STEP:
            yield
            products = 0
    return Chosen(np.array(positions, dtype=np.int64), np.array(values, dtype=np.float32))


class _Filling:
    """The groups of an attribute while they fill."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._sizes = Counter[float]()
        self._full = set[float]()

    def values_at(self, position: int) -> set[float]:
        """Returns the groups of a candidate."""
        return set(attribute_values.at_row(self._groups.column, int(self._groups.rows[position])))

    def has_room(self, values: set[float]) -> bool:
        """Returns whether none of these groups is full."""
        return self._full.isdisjoint(values)

    def add(self, values: set[float]) -> None:
        """Adds a candidate to its groups."""
        self._sizes.update(values)
        self._full.update(value for value in values if self._sizes[value] == self._groups.max_group_size)
