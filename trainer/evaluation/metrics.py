"""Full-ranking metrics: the whole catalogue is ranked, without the items that a user already interacted with.

Ties are broken by a fixed random permutation of the items. The order of the items would favour popular ones, which have
low ids in MovieLens; a preference for relevant items would give a constant scorer good metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainer.errors import DataError

RECALL_AT = (10, 20, 50, 100)
NDCG_AT = (10, 20, 100)
_DEEPEST = 100
_TIE_SEED = 20240229
_CELLS = 2**25
"""Largest number of scores that a scorer computes at once: 128 MiB of float32."""
_BLOCK_CELLS = 2**20
"""Largest number of scores to rank at once; ranking is twice as fast if they fit into the caches of a CPU."""
_LIFT = "popularity_lift@10"

_NOTHING = np.zeros(0, dtype=np.int64)

Scorer = Callable[[np.ndarray], np.ndarray]
"""Function from row numbers of users, [n] int, to scores of all items, [n, item_count] float.

Items with larger scores are ranked first; -inf excludes an item.
"""


@dataclass(frozen=True)
class HeldOut:
    """Users to evaluate, with their known and relevant items.

    Attributes:
        users: [n] int, row numbers of the users to evaluate. Each has at least one relevant item and, unless new users
            count, a known item.
        known: For each user, the catalogue rows to exclude from the ranking.
        relevant: For each user, the catalogue rows of the relevant items, distinct.
        item_count: Number of items of the catalogue.
        item_counts: [item_count] int64, number of known events of each item, for novelty and popularity lift; None to
            omit these metrics.
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
        """Returns the users to evaluate, from the (user, item) pairs before and in the test.

        Args:
            known_pairs: [m, 2] int, distinct and sorted (user, item) pairs before the test.
            test_pairs: [k, 2] int, distinct and sorted (user, item) pairs of the test.
            item_count: Number of items of the catalogue.
            repeats: Whether known pairs are relevant too. If so, no item is excluded from the ranking.
            item_counts: [item_count] int64, number of known events of each item. Default: no novelty and popularity
                lift.
            new_users: Whether users without known items are evaluated too.
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
    """Metrics of a method for each evaluated user.

    Attributes:
        users: [n] int, row numbers of the users.
        per_user: Values of each metric by name, each [n] float64, in the order of `users`.
        top: [n, 10] int32, catalogue rows of each user's top 10, best first; -1 where there are fewer items.
        item_count: Number of items of the catalogue.
        relevant_popularity: [n] float64, mean number of known events over each user's relevant items; None without
            `HeldOut.item_counts`.
    """

    users: np.ndarray
    per_user: Mapping[str, np.ndarray]
    top: np.ndarray
    item_count: int
    relevant_popularity: np.ndarray | None = None

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean of each metric over users, by name.

        It includes ``coverage@10``: the share of the catalogue that is in at least one top 10.
        """
        shown = np.unique(self.top)
        coverage = float((shown >= 0).sum() / self.item_count)
        return {**{name: float(values.mean()) for name, values in self.per_user.items()}, "coverage@10": coverage}

    def where(self, mask: np.ndarray) -> Scores:
        """Returns the metrics of only the users for which `mask` [n] bool is true."""
        per_user = {name: values[mask] for name, values in self.per_user.items()}
        relevant = None
        if self.relevant_popularity is not None:
            relevant = self.relevant_popularity[mask]
            recommended = (per_user[_LIFT] + 1.0) * (self.relevant_popularity.mean() + 1.0) - 1.0
            per_user[_LIFT] = _lift(recommended, relevant)
        return Scores(self.users[mask], per_user, self.top[mask], self.item_count, relevant)


def _grouped(pairs: np.ndarray, users: np.ndarray) -> list[np.ndarray]:
    starts = np.searchsorted(pairs[:, 0], users)
    ends = np.searchsorted(pairs[:, 0], users, side="right")
    return [pairs[start:end, 1] for start, end in zip(starts, ends, strict=True)]


def evaluate(held_out: HeldOut, score: Scorer) -> Scores:
    """Ranks the catalogue for each held-out user by the scores of a method, and returns the metrics of each user.

    A hit is a relevant item within the first K ranks.

    - ``recall@K``: number of hits divided by number of relevant items.
    - ``ndcg@K``: binary NDCG; the ideal ranking has min(K, relevant items) hits.
    - ``map@10``: sum of the precision at each hit, divided by min(10, relevant items).
    - ``hr@10``: 1 if there is a hit, else 0.
    - ``mrr``: 1 / rank of the first relevant item in the full ranking.
    - ``novelty@10``: mean of -log2 of each item's share of the events, plus one event for each item (Vargas & Castells
      2011, "Rank and Relevance in Novelty and Diversity Metrics for Recommender Systems").
    - ``popularity_lift@10``: mean number of events of the recommended items, divided by the mean number of events of
      the relevant items of all users, minus 1; one event is added to both means. Above 0, recommended items are more
      popular than relevant ones
      (Abdollahpouri et al. 2020, "The Connection Between Popularity Bias, Calibration, and Fairness in Recommendation",
      who compare with the items of user profiles).

    Args:
        held_out: Users to evaluate, with their known and relevant items.
        score: Scorer of the method.

    Raises:
        DataError: There are no users to evaluate.
        ValueError: A score is NaN.
    """
    if not len(held_out.users):
        raise DataError("no user has both known and held-out items: nothing to evaluate; use another [split]")
    permutation = np.random.default_rng(_TIE_SEED).permutation(held_out.item_count)
    position = np.empty_like(permutation)
    position[permutation] = np.arange(held_out.item_count)
    parts: dict[str, list[np.ndarray]] = {}
    tops: list[np.ndarray] = []
    for scored in _slices(slice(0, len(held_out.users)), held_out.item_count, _CELLS):
        scores = score(held_out.users[scored])
        for rows in _slices(scored, held_out.item_count, _BLOCK_CELLS):
            block = scores[rows.start - scored.start : rows.stop - scored.start]
            per_user, top = _evaluate_block(held_out, rows, block, permutation, position)
            tops.append(top)
            for name, values in per_user.items():
                parts.setdefault(name, []).append(values)
    per_user, top = {name: np.concatenate(values) for name, values in parts.items()}, np.concatenate(tops)
    relevant = None
    if (counts := held_out.item_counts) is not None:
        relevant = np.array([counts[items].mean() for items in held_out.relevant])
        per_user["novelty@10"], recommended = _of_popularity(top, counts)
        per_user[_LIFT] = _lift(recommended, relevant)
    return Scores(held_out.users, per_user, top, held_out.item_count, relevant)


def _slices(whole: slice, item_count: int, cells: int) -> Iterator[slice]:
    """Yields the consecutive parts of a slice of users, each with at most `cells` scores or a single user."""
    step = max(1, cells // item_count)
    return (slice(start, min(start + step, whole.stop)) for start in range(whole.start, whole.stop, step))


def _evaluate_block(
    held_out: HeldOut, rows: slice, scores: np.ndarray, permutation: np.ndarray, position: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the metrics of a block of n users by name, each [n] float64, and their top 10, [n, 10] int32.

    Args:
        held_out: Users to evaluate.
        rows: Slice of `held_out.users` that forms the block.
        scores: [n, item_count] float, scores of the users.
        permutation: [item_count] int, random order of the items, which breaks ties.
        position: [item_count] int, inverse of `permutation`.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    known, relevant = held_out.known[rows], held_out.relevant[rows]
    scores = scores[:, permutation]  # a copy, in which the lower column wins a tie
    allowed = np.full(scores.shape, True)
    for row, items in enumerate(known):
        allowed[row, position[items]] = False
    scores[~allowed] = -np.inf
    allowed &= scores > -np.inf  # an excluded item is not a hit
    order = _first(scores, _DEEPEST)  # [n, k]
    shown = np.take_along_axis(allowed, order, axis=1)
    is_relevant = np.zeros(scores.shape, dtype=bool)
    for row, items in enumerate(relevant):
        is_relevant[row, position[items]] = True
    is_relevant &= allowed
    hits = np.take_along_axis(is_relevant, order, axis=1)
    relevant_count = np.array([len(items) for items in relevant])
    metrics = _of_hits(hits, relevant_count)
    metrics["mrr"] = 1.0 / _first_rank(scores, allowed, is_relevant)
    top = np.where(shown, permutation[order], -1)[:, :10].astype(np.int32)
    return metrics, np.pad(top, ((0, 0), (0, 10 - top.shape[1])), constant_values=-1)


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the columns of the `count` largest scores, best first: [n, min(count, m)]; lower columns win ties."""
    columns = scores.shape[1]
    if columns <= 4 * count:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    bound = -np.partition(-scores, count - 1, axis=1)[:, count - 1]  # [n] the count-th largest score
    first = np.empty((len(scores), count), dtype=np.int64)
    for row, (values, least) in enumerate(zip(scores, bound, strict=True)):
        candidates = np.flatnonzero(values >= least)  # ascending; more than `count` if the last ones tie
        first[row] = candidates[np.argsort(-values[candidates], kind="stable")[:count]]
    return first


def _first_rank(scores: np.ndarray, allowed: np.ndarray, is_relevant: np.ndarray) -> np.ndarray:
    """Returns the rank of the first relevant item, from 1: [n] float64; infinite if there is none."""
    best = np.where(is_relevant, scores, -np.inf).max(axis=1)  # [n]
    at_best = is_relevant & (scores == best[:, None])
    column = np.where(at_best.any(axis=1), at_best.argmax(axis=1), scores.shape[1])
    before = allowed & ((scores > best[:, None]) | ((scores == best[:, None]) & _lower(column, scores.shape[1])))
    return np.where(is_relevant.any(axis=1), before.sum(axis=1) + 1.0, np.inf)


def _lower(column: np.ndarray, count: int) -> np.ndarray:
    return np.arange(count)[None, :] < column[:, None]


def _of_hits(hits: np.ndarray, relevant_count: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics that depend on hits alone, by name, each [n] float64.

    Args:
        hits: [n, k] bool, whether the item at each rank is relevant, best rank first.
        relevant_count: [n] int, number of relevant items of each user.
    """
    depth = hits.shape[1]
    hits_to = hits.cumsum(axis=1)
    gains = 1.0 / np.log2(np.arange(2, _DEEPEST + 2))
    ideal = np.concatenate([[0.0], gains.cumsum()])
    metrics: dict[str, np.ndarray] = {}
    for k in RECALL_AT:
        metrics[f"recall@{k}"] = hits_to[:, min(k, depth) - 1] / relevant_count
    for k in NDCG_AT:
        first = hits[:, :k]
        metrics[f"ndcg@{k}"] = (first * gains[: first.shape[1]]).sum(axis=1) / ideal[
            np.minimum(min(k, depth), relevant_count)
        ]
    ten = hits[:, :10]
    precision = ten.cumsum(axis=1) / np.arange(1, ten.shape[1] + 1)
    metrics["map@10"] = (precision * ten).sum(axis=1) / np.minimum(10, relevant_count)
    metrics["hr@10"] = ten.any(axis=1).astype(np.float64)
    return metrics


def _of_popularity(top: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the novelty of each top 10 in bits, and the mean number of events of its items: [n] float64 each.

    Args:
        top: [n, 10] int32, catalogue rows; -1 where there are fewer items.
        counts: [item_count] int64, number of events of each item.
    """
    shown = top >= 0
    number = np.maximum(1, shown.sum(axis=1))
    information = -np.log2((counts + 1.0) / (counts + 1.0).sum())
    return (information[top] * shown).sum(axis=1) / number, (counts[top] * shown).sum(axis=1) / number


def _lift(recommended: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Returns the popularity lift of each user: [n] float64.

    The divisor is the mean over all users, as a user with a single rare item would dominate a mean of ratios.

    Args:
        recommended: [n] float64, mean number of events of the recommended items.
        relevant: [n] float64, mean number of events of the relevant items.
    """
    return (recommended + 1.0) / (relevant.mean() + 1.0) - 1.0
