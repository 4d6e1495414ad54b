"""Full-ranking metrics: every item of the catalogue competes, what the user already has is left out.

Ties are broken by one fixed random permutation of the items: never by their order (in MovieLens, low ids are popular)
and never in favour of the target, which would make a constant scorer look good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RECALL_AT = (10, 50, 100)
NDCG_AT = (10, 100)
_TIE_SEED = 20240229
_CELLS = 2**25
"""Scores held at once: 128 MiB of float32."""

Scorer = Callable[[np.ndarray], np.ndarray]
"""Takes user rows [n], returns scores [n, item_count] float; larger is better."""


@dataclass(frozen=True)
class HeldOut:
    """Whom to evaluate, on what.

    Attributes:
        users: [n] rows of the users with at least one known and one held-out item.
        known: for each, the item rows to leave out.
        relevant: for each, the distinct item rows that were held out and are not known already.
        item_count: size of the catalogue.
    """

    users: np.ndarray
    known: Sequence[np.ndarray]
    relevant: Sequence[np.ndarray]
    item_count: int

    @staticmethod
    def of(known_pairs: np.ndarray, test_pairs: np.ndarray, item_count: int) -> HeldOut:
        """Returns what to evaluate.

        Args:
            known_pairs: [m, 2] int, distinct and sorted (user, item) pairs before the test.
            test_pairs: [k, 2] int, distinct and sorted; pairs that are known too (repeats) do not count.
            item_count: size of the catalogue.
        """
        keys = known_pairs.astype(np.int64) @ [item_count, 1]
        novel = test_pairs[~np.isin(test_pairs.astype(np.int64) @ [item_count, 1], keys)]
        users = np.intersect1d(known_pairs[:, 0], novel[:, 0])
        return HeldOut(users, _grouped(known_pairs, users), _grouped(novel, users), item_count)


def _grouped(pairs: np.ndarray, users: np.ndarray) -> list[np.ndarray]:
    starts = np.searchsorted(pairs[:, 0], users)
    ends = np.searchsorted(pairs[:, 0], users, side="right")
    return [pairs[start:end, 1] for start, end in zip(starts, ends, strict=True)]


def evaluate(held_out: HeldOut, score: Scorer) -> dict[str, float]:
    """Returns the metrics, means over users, and ``coverage@10``: the share of the catalogue in any user's top 10.

    ``recall@K`` is hits over relevant items, ``ndcg@K`` binary with the ideal over min(K, relevant), ``mrr`` the mean
    of 1 / rank of the first relevant item over the full ranking.

    Raises:
        ValueError: a score is NaN, or there is nobody to evaluate.
    """
    if not len(held_out.users):
        raise ValueError("no user has both known and held-out items: nothing to evaluate")
    totals: dict[str, list[np.ndarray]] = {}
    recommended = np.zeros(held_out.item_count, dtype=bool)
    for rows in _slices(len(held_out.users), held_out.item_count):
        per_user, top = _evaluate_slice(held_out, rows, score(held_out.users[rows]))
        recommended[top] = True
        for name, values in per_user.items():
            totals.setdefault(name, []).append(values)
    metrics = {name: float(np.concatenate(values).mean()) for name, values in totals.items()}
    return {**metrics, "coverage@10": float(recommended.mean())}


def _slices(user_count: int, item_count: int) -> Iterator[slice]:
    step = max(1, _CELLS // item_count)
    return (slice(start, min(start + step, user_count)) for start in range(0, user_count, step))


def _evaluate_slice(held_out: HeldOut, rows: slice, scores: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns metrics by name, each [n], and the item rows that stand in any top 10."""
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    item_count = held_out.item_count
    permutation = np.random.default_rng(_TIE_SEED).permutation(item_count)
    scores = np.array(scores, copy=True)
    is_relevant = np.zeros(scores.shape, dtype=bool)
    for row, (known, relevant) in enumerate(zip(held_out.known[rows], held_out.relevant[rows], strict=True)):
        scores[row, known] = -np.inf
        is_relevant[row, relevant] = True
    order = permutation[np.argsort(-scores[:, permutation], axis=1, kind="stable")]  # [n, item_count], best first
    candidates = item_count - np.array([len(known) for known in held_out.known[rows]])  # [n]
    hits = np.take_along_axis(is_relevant, order, axis=1)
    hits &= np.arange(item_count) < candidates[:, None]  # known items stand last and are no hits
    relevant_count = is_relevant.sum(axis=1)
    hits_to = hits[:, : max(RECALL_AT)].cumsum(axis=1)
    gains = 1.0 / np.log2(np.arange(2, max(NDCG_AT) + 2))
    ideal = np.concatenate([[0.0], gains.cumsum()])
    metrics: dict[str, np.ndarray] = {}
    for k in RECALL_AT:
        metrics[f"recall@{k}"] = hits_to[:, min(k, item_count) - 1] / relevant_count
    for k in NDCG_AT:
        found = hits[:, :k]
        metrics[f"ndcg@{k}"] = (found * gains[: found.shape[1]]).sum(axis=1) / ideal[
            np.minimum(min(k, item_count), relevant_count)
        ]
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)
    metrics["mrr"] = 1.0 / first
    shown = np.arange(10)[None, :] < candidates[:, None]  # [n, 10]
    return metrics, np.unique(order[:, :10][shown[:, : order[:, :10].shape[1]]])
