"""What a team would otherwise use, each tuned on validation: the honest bar for a model.

A method is fitted on events and gives a `trainer.metrics.Scorer`. Users without any event get popularity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from trainer.data import Events
from trainer.metrics import HeldOut, Scorer, evaluate
from trainer.splits import Parts

_DENSE_ITEMS = 20_000
"""Largest catalogue whose items x items matrix is made: 1.6 GB of float32."""

_DAY_S = 86_400.0
_TUNING_USERS = 4000
_NEIGHBOUR_BLOCK = 2048
_RIDGES = (100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Known:
    """Events that a method is fitted on.

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

    def decayed(self, decay: float) -> sp.csr_matrix:
        """Returns [user_count, item_count] float32, ``decay ** rank``: 0 is the rank of a user's newest event.

        Of an item that a user met several times, the newest counts.
        """
        users = self.events.users
        ends = self.events.starts(self.user_count)[1:]
        weights = np.power(decay, ends[users] - 1 - np.arange(len(users))).astype(np.float32)
        matrix = sp.coo_matrix((weights, (users, self.events.items)), shape=(self.user_count, self.item_count))
        keys = users.astype(np.int64) * self.item_count + self.events.items
        newest = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
        kept = sp.coo_matrix((matrix.data[newest], (matrix.row[newest], matrix.col[newest])), shape=matrix.shape)
        return sp.csr_matrix(kept)

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
        half_life: share of the time between the oldest and the newest event.
    """
    times = known.events.times
    age = (times.max() - times) / max(times.max() - times.min(), 1e-9)
    weights = 0.5 ** (age / half_life)
    return _same(np.bincount(known.events.items, weights, minlength=known.item_count).astype(np.float32))


def item_knn(known: Known, *, neighbours: int, shrinkage: float) -> Scorer:
    """Returns the sum of the cosines to the items that the user met, of the nearest neighbours alone.

    Sarwar et al. 2001, "Item-based Collaborative Filtering Recommendation Algorithms". ``shrinkage`` is added to the
    denominator, so that few common users say little.
    """
    matrix = known.matrix()
    norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    transposed = matrix.T.tocsr()
    blocks = []
    for start in range(0, known.item_count, _NEIGHBOUR_BLOCK):
        common = (transposed[start : start + _NEIGHBOUR_BLOCK] @ matrix).tocoo()  # [block, item_count] common users
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
    weights = _ease_weights(_Key(known), ridge)
    return _linear(known, known.matrix() if decay == 1.0 else known.decayed(decay), weights)


class _Key:
    """Makes `Known` a key of a cache, by identity of its events."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def __hash__(self) -> int:
        return id(self.known.events)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.known.events is other.known.events


@lru_cache(maxsize=len(_RIDGES))
def _ease_weights(key: _Key, ridge: float) -> np.ndarray:
    matrix = key.known.matrix()
    gram = np.asarray((matrix.T @ matrix).todense(), dtype=np.float32)
    diagonal = np.arange(len(gram))
    gram[diagonal, diagonal] += ridge
    inverse = _inverse(gram)
    weights = -inverse / np.diag(inverse)
    weights[diagonal, diagonal] = 0.0
    return weights


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Returns the inverse of a symmetric, positive matrix [n, n] float32, by Cholesky: a third of the work."""
    factor, failed = lapack.spotrf(matrix, lower=1)
    if failed:
        raise ValueError("the ridge is too small for these data: the matrix has no inverse")
    lower, _ = lapack.spotri(factor, lower=1)
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T


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
    met = np.bincount(known.events.users, minlength=known.user_count) > 0
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


@dataclass(frozen=True)
class Baseline:
    """A method and the settings that validation chooses from."""

    fit: Callable[..., Scorer]
    grid: Sequence[Mapping[str, Any]] = ({},)
    is_dense: bool = False
    counts_repeats: bool = False


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(popularity),
    "recent popularity": Baseline(recent_popularity, [{"half_life": share} for share in (0.003, 0.01, 0.03, 0.1, 0.3)]),
    "ItemKNN": Baseline(
        item_knn, [{"neighbours": n, "shrinkage": s} for n in (20, 100, 500) for s in (0.0, 10.0, 100.0)]
    ),
    "EASE": Baseline(ease, [{"ridge": ridge} for ridge in _RIDGES], is_dense=True),
    "EASE with recency": Baseline(
        ease,
        [{"ridge": r, "decay": d} for r in _RIDGES for d in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97)],
        is_dense=True,
    ),
    "iALS": Baseline(
        ials,
        [
            {"factors": 64, "alpha": a, "regularisation": r, "iterations": 15}
            for a in (1.0, 10.0)
            for r in (0.1, 1.0, 10.0)
        ],
    ),
    "repeat frequency": Baseline(repeat_frequency, counts_repeats=True),
}
"""All methods by name."""


def fit_all(
    parts: Parts,
    user_count: int,
    item_count: int,
    *,
    repeats: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Scorer], list[str]]:
    """Returns every method by name, fitted on training and validation with what was best on validation; and notes.

    Args:
        parts: of which the test is not looked at.
        user_count: of the data set.
        item_count: size of the catalogue.
        repeats: whether known items are ranked too.
        progress: told what is done now.
    """
    scorers: dict[str, Scorer] = {}
    notes: list[str] = []
    before = Known(parts.train, user_count, item_count)
    known = Known(parts.known, user_count, item_count)
    held_out = _validation(parts, item_count, repeats=repeats)
    for name, baseline in BASELINES.items():
        if baseline.counts_repeats and not repeats:
            continue
        if baseline.is_dense and item_count > _DENSE_ITEMS:
            notes.append(
                f"{name} is left out: its matrix of {item_count:,} x {item_count:,} items takes too much memory"
            )
            continue
        best: tuple[float, Mapping[str, Any]] = (-1.0, baseline.grid[0])
        for at, settings in enumerate(baseline.grid if len(baseline.grid) > 1 else ()):
            progress(f"{name}, setting {at + 1} of {len(baseline.grid)}")
            found = evaluate(held_out, baseline.fit(before, **settings)).means["ndcg@10"]
            best = max(best, (found, settings), key=lambda pair: pair[0])
        progress(name)
        scorers[name] = baseline.fit(known, **best[1])
        if best[1]:
            notes.append(f"{name}: {', '.join(_shown(best[1]))}, chosen on validation")
    return scorers, notes


def _shown(settings: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name} {value:g}" for name, value in settings.items())


def _validation(parts: Parts, item_count: int, *, repeats: bool) -> HeldOut:
    pairs = parts.valid.pairs
    users = np.random.default_rng(0).permutation(np.unique(pairs[:, 0]))[:_TUNING_USERS]
    return HeldOut.of(parts.train.pairs, pairs[np.isin(pairs[:, 0], users)], item_count, repeats=repeats)
