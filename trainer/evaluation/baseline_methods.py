"""Methods that need no gradient: popularity, neighbours, closed-form regression, factorisation.

A method is fitted on events and gives a `trainer.evaluation.metrics.Scorer`. Users without any event get popularity.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from trainer.data.events import Events
from trainer.evaluation.metrics import Scorer

_BLOCK = 2048
"""Items whose rows of an items x items matrix are made at once."""


@dataclass(frozen=True, eq=False)
class Known:
    """Events that a method is fitted on. Equal to itself alone, so that it can be the key of a cache.

    Attributes:
        events: sorted by user, then time.
        user_count: of the data set.
        item_count: size of the catalogue.
    """

    events: Events
    user_count: int
    item_count: int

    def matrix(self) -> sp.csr_matrix:
        """Returns [user_count, item_count] float32, 1 where a user met an item."""
        pairs = self.events.pairs
        ones = np.ones(len(pairs), dtype=np.float32)
        return sp.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(self.user_count, self.item_count))

    def ranks(self) -> np.ndarray:
        """Returns how many events of the same user are newer, 0 for the newest: [n] int64."""
        ends = self.events.starts(self.user_count)[1:]
        return ends[self.events.users] - 1 - np.arange(len(self.events))

    def decayed(self, decay: float) -> sp.csr_matrix:
        """Returns [user_count, item_count] float32, ``decay ** rank``: 0 is the rank of a user's newest event.

        Of an item that a user met several times, the newest counts.
        """
        users, items = self.events.users, self.events.items
        weights = np.power(decay, self.ranks()).astype(np.float32)
        keys = users.astype(np.int64) * self.item_count + items
        newest = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        shape = (self.user_count, self.item_count)
        return sp.csr_matrix((weights[newest], (users[newest], items[newest])), shape=shape)

    def popularity(self) -> np.ndarray:
        """Returns the events of each item: [item_count] float32."""
        return self.events.item_counts(self.item_count).astype(np.float32)


def popularity(known: Known) -> Scorer:
    """Returns the events of each item, the same for everyone."""
    return _same(known.popularity())


def recent_popularity(known: Known, *, half_life: float) -> Scorer:
    """Returns the events of each item, each worth half as much for every half-life that it is older than the newest.

    Args:
        known: the events.
        half_life: share of the greatest age. Where the data has no time, an event's age is how many events its user
            had since.
    """
    age = _ages(known)
    weights = 0.5 ** (age / max(age.max(), 1e-9) / half_life)
    return _same(np.bincount(known.events.items, weights, minlength=known.item_count).astype(np.float32))


def _ages(known: Known) -> np.ndarray:
    """Returns [n] float64, 0 the newest: seconds, or rows of the table; or events of the same user since.

    Events of sequences are numbered user by user, which tells nothing of who came later: no two users overlap there.
    """
    times = known.events.times
    starts = known.events.starts(known.user_count)
    starts, ends = starts[:-1][np.diff(starts) > 0], starts[1:][np.diff(starts) > 0]
    first, last = times[starts], times[ends - 1]
    order = np.argsort(first)
    if np.all(first[order][1:] > last[order][:-1]):
        return known.ranks().astype(np.float64)
    return times.max() - times


def item_knn(known: Known, *, neighbours: int, shrinkage: float) -> Scorer:
    """Returns the sum of the cosines to the items that the user met, of the nearest neighbours alone.

    Sarwar et al. 2001, "Item-based Collaborative Filtering Recommendation Algorithms". ``shrinkage`` is added to the
    denominator, so that few common users say little.
    """
    matrix = known.matrix()
    norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    transposed = matrix.T.tocsr()
    blocks = []
    for start in range(0, known.item_count, _BLOCK):
        common = (transposed[start : start + _BLOCK] @ matrix).tocoo()  # [block, item_count] common users
        row, column = common.row + start, common.col
        values = common.data / (norms[row] * norms[column] + shrinkage + 1e-9)
        values[row == column] = 0.0
        blocks.append(_largest(sp.csr_matrix((values, (common.row, column)), shape=common.shape), neighbours))
    similar = sp.vstack(blocks).tocsr()
    return _linear(known, matrix, similar.T.tocsr())


def ease(known: Known, *, ridge: float, decay: float = 1.0) -> Scorer:
    """Returns ``x B`` with ``B = I - P diag(1 / diag(P))``, ``P = (X'X + ridge I)^-1`` (Steck 2019, "Embarrassingly
    Shallow Autoencoders for Sparse Data", eq. 8).

    Args:
        known: the events.
        ridge: lambda, above 0.
        decay: of the user's row x: ``decay ** rank``, 0 the rank of the newest event; 1 weighs all alike.
    """  # noqa: D205
    weights = ease_weights(known, ridge)
    return _linear(known, known.matrix() if decay == 1.0 else known.decayed(decay), weights)


@lru_cache(maxsize=1)
def ease_weights(known: Known, ridge: float) -> np.ndarray:
    """Returns B: [item_count, item_count] float32, for which there is memory once and a half."""
    matrix = known.matrix()
    transposed = matrix.T.tocsr()
    weights = np.empty((known.item_count, known.item_count), dtype=np.float32)
    for start in range(0, known.item_count, _BLOCK):
        block = transposed[start : start + _BLOCK] @ matrix
        weights[start : start + _BLOCK] = block.toarray()  # [block, item_count] users that two items share
    weights[np.diag_indices_from(weights)] += ridge
    weights = _inverse(weights)
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0.0)
    return weights


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Returns the inverse of a symmetric, positive matrix [n, n] float32, which it overwrites, by Cholesky."""
    columns = matrix.T  # LAPACK works in place where columns are contiguous
    factor, failed = lapack.spotrf(columns, lower=1, overwrite_a=1)
    if failed:
        raise ValueError("the ridge is too small for these data: the matrix has no inverse")
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    for start in range(0, len(inverse), _BLOCK):
        stop = start + _BLOCK
        lower = np.tril(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] = lower + np.tril(lower, -1).T
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
    return inverse.T  # rows are contiguous, as products with sparse rows need them


def ials(known: Known, *, factors: int, alpha: float, regularisation: float, iterations: int) -> Scorer:
    """Returns the dot products of factors by `implicit` (Hu et al. 2008, "Collaborative Filtering for Implicit Feedback
    Datasets").
    """  # noqa: D205
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore")
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            factors=factors, alpha=alpha, regularization=regularisation, iterations=iterations, random_state=0
        )
        model.fit(known.matrix(), show_progress=False)
    users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
    return _or_popular(known, lambda rows: users[rows] @ items.T)


def repeat_frequency(known: Known) -> Scorer:
    """Returns how often the user met each item; those that they never met follow by popularity."""
    events = known.events
    counts = sp.coo_matrix(
        (np.ones(len(events), dtype=np.float32), (events.users, events.items)),
        shape=(known.user_count, known.item_count),
    ).tocsr()
    popular = known.popularity()
    rest = popular / (popular.max() + 1.0)  # below one event
    return lambda users: np.asarray(counts[users].todense()) + rest[None, :]


def _same(scores: np.ndarray) -> Scorer:
    return lambda users: np.broadcast_to(scores, (len(users), len(scores)))


def _linear(known: Known, rows: sp.csr_matrix, weights: Any) -> Scorer:
    def score(users: np.ndarray) -> np.ndarray:
        found = rows[users] @ weights
        return np.asarray(found.todense() if sp.issparse(found) else found, dtype=np.float32)

    return _or_popular(known, score)


def _or_popular(known: Known, score: Scorer) -> Scorer:
    met = np.diff(known.events.starts(known.user_count)) > 0
    popular = known.popularity()
    return lambda users: np.where(met[users][:, None], score(users), popular[None, :])


def _largest(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """Returns the matrix with the `count` largest values of each row alone."""
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        values = matrix.data[start:end]
        if len(values) > count:
            values[np.argpartition(values, -count)[:-count]] = 0.0
    matrix.eliminate_zeros()
    return matrix
