"""Baseline methods: popularity, nearest neighbours, closed-form regression and matrix factorisation.

Each method is fitted on events and returns a `trainer.evaluation.metrics.Scorer`. Users without events get the
popularity of the items as scores.
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
"""Number of rows of an items x items matrix to compute at once."""


@dataclass(frozen=True, eq=False)
class Known:
    """Known events, which a method is fitted on. Instances are compared by identity, so that they can be cache keys.

    Attributes:
        events: Events, sorted by user, then time.
        user_count: Number of users of the data set.
        item_count: Number of items of the catalogue.
    """

    events: Events
    user_count: int
    item_count: int

    def matrix(self) -> sp.csr_matrix:
        """Returns the interactions: [user_count, item_count] float32, 1 where a user interacted with an item."""
        pairs = self.events.pairs
        ones = np.ones(len(pairs), dtype=np.float32)
        return sp.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(self.user_count, self.item_count))

    def ranks(self) -> np.ndarray:
        """Returns for each event the number of newer events of its user, 0 for the newest: [n] int64."""
        ends = self.events.starts(self.user_count)[1:]
        return ends[self.events.users] - 1 - np.arange(len(self.events))

    def decayed(self, decay: float) -> sp.csr_matrix:
        """Returns the interactions, weighted by recency: [user_count, item_count] float32.

        The weight is ``decay ** rank``, where rank is the number of newer events of the user. If a user has several
        events with an item, the newest one counts. Pairs without an event are 0.
        """
        users, items = self.events.users, self.events.items
        weights = np.power(decay, self.ranks()).astype(np.float32)
        keys = users.astype(np.int64) * self.item_count + items
        newest = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        shape = (self.user_count, self.item_count)
        return sp.csr_matrix((weights[newest], (users[newest], items[newest])), shape=shape)

    def popularity(self) -> np.ndarray:
        """Returns the number of events of each item: [item_count] float32."""
        return self.events.item_counts(self.item_count).astype(np.float32)


def popularity(known: Known) -> Scorer:
    """Returns a scorer by popularity: the score of an item is its number of events, for all users alike."""
    return _same(known.popularity())


def recent_popularity(known: Known, *, half_life: float) -> Scorer:
    """Returns a scorer by recent popularity: the score of an item is the sum of the weights of its events.

    The weight of an event halves with each half-life of its age.

    Args:
        known: Events to fit on.
        half_life: Half-life as a share of the age of the oldest event, above 0. If the data has no times, the age of an
            event is the number of newer events of its user.
    """
    age = _ages(known)
    weights = 0.5 ** (age / max(age.max(), 1e-9) / half_life)
    return _same(np.bincount(known.events.items, weights, minlength=known.item_count).astype(np.float32))


def _ages(known: Known) -> np.ndarray:
    """Returns the age of each event, 0 for the newest: [n] float64.

    The unit is seconds if the events have times, and rows if they are only in order. The events of sequence data are
    numbered user by user, which does not order events of different users; there the age is the number of newer events
    of the same user.
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
    """Returns a scorer by item-based nearest neighbours.

    The score of an item is the sum of its cosine similarities to those of the user's items that are among its nearest
    neighbours (Sarwar et al. 2001, "Item-based Collaborative Filtering Recommendation Algorithms").

    Args:
        known: Events to fit on.
        neighbours: Number of nearest neighbours of each item that are used, at least 1.
        shrinkage: Number that is added to the denominator of the cosine, 0 or above; it lowers the similarity of items
            with few common users.
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
    """Returns a scorer by EASE, a linear regression of each item on all others.

    The scores of a user with the row x of the interactions X are ``x B`` with ``B = I - P diag(1 / diag(P))`` and
    ``P = (X'X + ridge I)^-1``. Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", eq. 8.

    Args:
        known: Events to fit on.
        ridge: Strength of the L2 regularisation, above 0.
        decay: Base of the weights of the events in x, above 0, at most 1: an event with n newer events of the user has
            the weight ``decay ** n``. Default: equal weights.
    """
    weights = ease_weights(known, ridge)
    return _linear(known, known.matrix() if decay == 1.0 else known.decayed(decay), weights)


@lru_cache(maxsize=1)
def ease_weights(known: Known, ridge: float) -> np.ndarray:
    """Returns the item-item weights B of `ease`: [item_count, item_count] float32.

    The computation needs memory for one and a half such matrices.

    Args:
        known: Events to fit on.
        ridge: Strength of the L2 regularisation, above 0.
    """
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
    """Returns the inverse of a symmetric, positive definite matrix [n, n] float32, which it overwrites."""
    columns = matrix.T  # LAPACK works in place if columns are contiguous
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
    """Returns a scorer by implicit matrix factorisation (iALS), which the package `implicit` computes.

    The score of an item is the dot product of the factors of user and item (Hu et al. 2008, "Collaborative Filtering
    for Implicit Feedback Datasets").

    Args:
        known: Events to fit on.
        factors: Number of factors of a user or item.
        alpha: Confidence of an interaction compared with a missing one.
        regularisation: Strength of the L2 regularisation, above 0.
        iterations: Number of alternating least-squares iterations.
    """
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
    """Returns a scorer by repeat frequency: the score of an item is the number of the user's earlier events with it.

    Items that the user has no event with get scores below 1, in order of popularity.
    """
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
        scores = rows[users] @ weights  # [n, item_count]
        return np.asarray(scores.todense() if sp.issparse(scores) else scores, dtype=np.float32)

    return _or_popular(known, score)


def _or_popular(known: Known, score: Scorer) -> Scorer:
    has_events = np.diff(known.events.starts(known.user_count)) > 0
    popular = known.popularity()
    return lambda users: np.where(has_events[users][:, None], score(users), popular[None, :])


def _largest(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """Removes all but the `count` largest values of each row of a matrix, and returns the same matrix."""
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        values = matrix.data[start:end]
        if len(values) > count:
            values[np.argpartition(values, -count)[:-count]] = 0.0
    matrix.eliminate_zeros()
    return matrix
