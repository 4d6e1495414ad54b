"""Full-ranking metrics: every item of the catalogue competes, what the user already has is left out.

Ties are broken by one fixed random permutation of the items: never by their order (in MovieLens, low ids are popular)
and never in favour of the target, which would make a constant scorer look good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

RECALL_AT = (10, 20, 50, 100)
NDCG_AT = (10, 20, 100)
_DEEPEST = 100
_TIE_SEED = 20240229
_CELLS = 2**25
"""Scores asked for at once: 128 MiB of float32."""
_BLOCK_CELLS = 2**20
"""Scores ranked at once: what fits the caches of a processor is ranked twice as fast."""
_LIFT = "popularity_lift@10"

_NOTHING = np.zeros(0, dtype=np.int64)

Scorer = Callable[[np.ndarray], np.ndarray]
"""Takes user rows [n], returns scores [n, item_count] float; larger is better, -inf is an item that is not found."""


@dataclass(frozen=True)
class HeldOut:
    """Whom to evaluate, on what.

    Attributes:
        users: [n] rows of the users with at least one held-out item and, unless new ones count, a known one.
        known: for each, the item rows to leave out.
        relevant: for each, the distinct item rows that were held out.
        item_count: size of the catalogue.
        item_counts: [item_count] known events of each item, for novelty and popularity lift; None: without these.
    """

    users: np.ndarray
    known: Sequence[np.ndarray]
    relevant: Sequence[np.ndarray]
    item_count: int
    item_counts: np.ndarray | None = None

    @staticmethod
    def of(
        known_pairs: np.ndarray,
        test_pairs: np.ndarray,
        item_count: int,
        *,
        repeats: bool = False,
        item_counts: np.ndarray | None = None,
        new_users: bool = False,
    ) -> HeldOut:
        """Returns what to evaluate.

        Args:
            known_pairs: [m, 2] int, distinct and sorted (user, item) pairs before the test.
            test_pairs: [k, 2] int, distinct and sorted.
            item_count: size of the catalogue.
            repeats: whether pairs that are known too count. If so, nothing is left out of the ranking.
            item_counts: as of the class.
            new_users: whether users without known items are evaluated too: their request says what they want.
        """
        relevant = test_pairs
        if not repeats:
            keys = known_pairs.astype(np.int64) @ [item_count, 1]
            relevant = test_pairs[~np.isin(test_pairs.astype(np.int64) @ [item_count, 1], keys)]
        users = np.unique(relevant[:, 0])
        if not new_users:
            users = np.intersect1d(known_pairs[:, 0], users)
        known = [_NOTHING] * len(users) if repeats else _grouped(known_pairs, users)
        return HeldOut(users, known, _grouped(relevant, users), item_count, item_counts)


@dataclass(frozen=True)
class Scores:
    """How a method did.

    Attributes:
        users: [n] rows.
        per_user: by metric, [n] float64.
        top: [n, 10] int32 item rows, best first; -1 where there are fewer.
        item_count: size of the catalogue.
        taken: [n] float64, mean known events of each user's held-out items; None without `HeldOut.item_counts`.
    """

    users: np.ndarray
    per_user: Mapping[str, np.ndarray]
    top: np.ndarray
    item_count: int
    taken: np.ndarray | None = None

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over users, and ``coverage@10``: the share of the catalogue in any user's top 10."""
        shown = np.unique(self.top)
        coverage = float((shown >= 0).sum() / self.item_count)
        return {**{name: float(values.mean()) for name, values in self.per_user.items()}, "coverage@10": coverage}

    def where(self, mask: np.ndarray) -> Scores:
        """Returns the scores of the users at which `mask` [n] bool is true: as if there were no others."""
        per_user = {name: values[mask] for name, values in self.per_user.items()}
        taken = None if self.taken is None else self.taken[mask]
        if self.taken is not None and taken is not None:
            recommended = (per_user[_LIFT] + 1.0) * (self.taken.mean() + 1.0) - 1.0
            per_user[_LIFT] = _lift(recommended, taken)
        return Scores(self.users[mask], per_user, self.top[mask], self.item_count, taken)


def _grouped(pairs: np.ndarray, users: np.ndarray) -> list[np.ndarray]:
    starts = np.searchsorted(pairs[:, 0], users)
    ends = np.searchsorted(pairs[:, 0], users, side="right")
    return [pairs[start:end, 1] for start, end in zip(starts, ends, strict=True)]


def evaluate(held_out: HeldOut, score: Scorer) -> Scores:
    """Returns the metrics of each user.

    ``recall@K`` is hits over relevant items, ``ndcg@K`` binary with the ideal over min(K, relevant), ``map@10`` the sum
    of the precision at each hit over min(10, relevant), ``hr@10`` 1 where any hit, ``mrr`` 1 / rank of the first
    relevant item over the full ranking. Of the first 10, each item with one event more than is known of it:
    ``novelty@10`` is the mean of -log2 of an item's share of the events (Vargas & Castells 2011, "Rank and Relevance in
    Novelty and Diversity Metrics for Recommender Systems"); ``popularity_lift@10`` the mean events of the items over
    the mean, over all users, of those of the held-out ones, minus 1: above 0, what is shown is more popular than what
    people take (Abdollahpouri et al. 2020, "The Connection Between Popularity Bias, Calibration, and Fairness in
    Recommendation", who compare the means of a group of users likewise, but with their profiles).

    Raises:
        ValueError: a score is NaN, or there is nobody to evaluate.
    """
    if not len(held_out.users):
        raise ValueError("no user has both known and held-out items: nothing to evaluate")
    permutation = np.random.default_rng(_TIE_SEED).permutation(held_out.item_count)
    place = np.empty_like(permutation)
    place[permutation] = np.arange(held_out.item_count)
    parts: dict[str, list[np.ndarray]] = {}
    tops: list[np.ndarray] = []
    for asked in _slices(slice(0, len(held_out.users)), held_out.item_count, _CELLS):
        scores = score(held_out.users[asked])
        for rows in _slices(asked, held_out.item_count, _BLOCK_CELLS):
            block = scores[rows.start - asked.start : rows.stop - asked.start]
            per_user, top = _evaluate_block(held_out, rows, block, permutation, place)
            tops.append(top)
            for name, values in per_user.items():
                parts.setdefault(name, []).append(values)
    per_user, top = {name: np.concatenate(values) for name, values in parts.items()}, np.concatenate(tops)
    taken = None
    if (counts := held_out.item_counts) is not None:
        taken = np.array([counts[items].mean() for items in held_out.relevant])
        per_user["novelty@10"], recommended = _of_popularity(top, counts)
        per_user[_LIFT] = _lift(recommended, taken)
    return Scores(held_out.users, per_user, top, held_out.item_count, taken)


def _slices(whole: slice, item_count: int, cells: int) -> Iterator[slice]:
    """Yields the parts of a slice of users, in order, each of at most `cells` scores."""
    step = max(1, cells // item_count)
    return (slice(start, min(start + step, whole.stop)) for start in range(whole.start, whole.stop, step))


def _evaluate_block(
    held_out: HeldOut, rows: slice, scores: np.ndarray, permutation: np.ndarray, place: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns metrics by name, each [n], and the top 10 [n, 10]."""
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    known, relevant = held_out.known[rows], held_out.relevant[rows]
    scores = scores[:, permutation]  # a copy; ties now fall to the lower column
    allowed = np.full(scores.shape, True)
    for row, items in enumerate(known):
        allowed[row, place[items]] = False
    scores[~allowed] = -np.inf
    allowed &= scores > -np.inf  # what is not found is no hit, not even by the order of ties
    order = _first(scores, _DEEPEST)  # [n, k]
    shown = np.take_along_axis(allowed, order, axis=1)
    is_relevant = np.zeros(scores.shape, dtype=bool)
    for row, items in enumerate(relevant):
        is_relevant[row, place[items]] = True
    is_relevant &= allowed
    hits = np.take_along_axis(is_relevant, order, axis=1)
    relevant_count = np.array([len(items) for items in relevant])
    metrics = _of_hits(hits, relevant_count)
    metrics["mrr"] = 1.0 / _first_rank(scores, allowed, is_relevant)
    top = np.where(shown, permutation[order], -1)[:, :10].astype(np.int32)
    return metrics, np.pad(top, ((0, 0), (0, 10 - top.shape[1])), constant_values=-1)


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the columns of the largest scores, ties to the lower column: [n, min(count, m)]."""
    columns = scores.shape[1]
    if columns <= 4 * count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    bound = -np.partition(-scores, count - 1, axis=1)[:, count - 1]  # [n] the count-th largest score
    found = np.empty((len(scores), count), dtype=np.int64)
    for row, (values, least) in enumerate(zip(scores, bound, strict=True)):
        candidates = np.flatnonzero(values >= least)  # ascending; more than `count` where the last ones tie
        found[row] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    return found


def _first_rank(scores: np.ndarray, allowed: np.ndarray, is_relevant: np.ndarray) -> np.ndarray:
    """Returns the rank of the first relevant item, from 1 on; infinite where there is none: [n] float64."""
    best = np.where(is_relevant, scores, -np.inf).max(axis=1)  # [n]
    at_best = is_relevant & (scores == best[:, None])
    column = np.where(at_best.any(axis=1), at_best.argmax(axis=1), scores.shape[1])
    before = allowed & ((scores > best[:, None]) | ((scores == best[:, None]) & _lower(column, scores.shape[1])))
    return np.where(is_relevant.any(axis=1), before.sum(axis=1) + 1.0, np.inf)


def _lower(column: np.ndarray, count: int) -> np.ndarray:
    return np.arange(count)[None, :] < column[:, None]


def _of_hits(hits: np.ndarray, relevant_count: np.ndarray) -> dict[str, np.ndarray]:
    """Returns metrics of [n, k] bool, best first."""
    depth = hits.shape[1]
    hits_to = hits.cumsum(axis=1)
    gains = 1.0 / np.log2(np.arange(2, _DEEPEST + 2))
    ideal = np.concatenate([[0.0], gains.cumsum()])
    metrics: dict[str, np.ndarray] = {}
    for k in RECALL_AT:
        metrics[f"recall@{k}"] = hits_to[:, min(k, depth) - 1] / relevant_count
    for k in NDCG_AT:
        found = hits[:, :k]
        metrics[f"ndcg@{k}"] = (found * gains[: found.shape[1]]).sum(axis=1) / ideal[
            np.minimum(min(k, depth), relevant_count)
        ]
    ten = hits[:, :10]
    precision = ten.cumsum(axis=1) / np.arange(1, ten.shape[1] + 1)
    metrics["map@10"] = (precision * ten).sum(axis=1) / np.minimum(10, relevant_count)
    metrics["hr@10"] = ten.any(axis=1).astype(np.float64)
    return metrics


def _of_popularity(top: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean information, in bits, and the mean events of the first 10: [n] float64 each."""
    shown = top >= 0
    number = np.maximum(1, shown.sum(axis=1))
    information = -np.log2((counts + 1.0) / (counts + 1.0).sum())
    return (information[top] * shown).sum(axis=1) / number, (counts[top] * shown).sum(axis=1) / number


def _lift(recommended: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Returns how much more popular than what people take each user's items are: [n] float64.

    The divisor is one mean: that of a single rare item would outweigh all other users.
    """
    return (recommended + 1.0) / (taken.mean() + 1.0) - 1.0
