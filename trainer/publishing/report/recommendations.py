"""The top 10 recommendations of held-out users: their popularity, and examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.events import Events
from trainer.publishing.report.page_data import Example, HeldOutItem, Popularity, Recommendation

_TOP = 10
_MAX_SCORES = 2**27
"""Largest number of scores computed for the popularity of recommendations; an eighth of them is in memory at once."""
_MIN_USERS = 20
_MAX_EXAMPLES, _MAX_HISTORY = 10, 10
_NO_ITEMS = np.zeros(0, dtype=np.int32)


def measure_popularity(
    users: np.ndarray, queries: np.ndarray, vectors: np.ndarray, known: Events, *, repeats: bool = False
) -> Popularity:
    """Returns for each item its number of events, and the number of users whose top 10 it is in.

    Args:
        users: [n] rows of the users.
        queries: [n, dim] float32, unit length: embeddings of the users' queries.
        vectors: [item_count, dim] float32, unit length.
        known: Events before the test.
        repeats: Whether items that a user knows are recommended too.
    """
    item_count = len(vectors)
    users = users[: max(_MIN_USERS, _MAX_SCORES // item_count)]
    step = max(1, _MAX_SCORES // 8 // item_count)
    recommended = np.zeros(item_count, dtype=np.int64)
    for start in range(0, len(users), step):
        batch = slice(start, start + step)
        left_out = [] if repeats else [_items_of(known, user) for user in users[batch]]
        scores = _scores(queries[: len(users)][batch], vectors, left_out)  # [batch, item_count]
        k = min(_TOP, item_count)
        top = np.argpartition(scores, item_count - k, axis=1)[:, item_count - k :]  # [batch, k]
        candidates = np.isfinite(np.take_along_axis(scores, top, axis=1))  # [batch, k]
        recommended += np.bincount(top[candidates], minlength=item_count)
    return Popularity(known.item_counts(item_count), recommended, len(users))


def choose_examples(
    user_ids: Sequence[str],
    titles: Sequence[str],
    known: Events,
    test: Events,
    users: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    repeats: bool = False,
) -> list[Example]:
    """Returns up to ten users with their recommendations: first those with a relevant held-out item, then others.

    Args:
        user_ids: [user_count] external ids.
        titles: [item_count] titles of the items.
        known: Events before the test.
        test: held-out events.
        users: [n] rows of the users.
        queries: [n, dim] float32, unit length: embeddings of the users' queries.
        vectors: [item_count, dim] float32, unit length.
        repeats: Whether items that a user knows are recommended and relevant too.
    """
    left_out = [_NO_ITEMS if repeats else _items_of(known, user) for user in users]
    relevant = [np.setdiff1d(_items_of(test, user), items) for user, items in zip(users, left_out, strict=True)]
    chosen = sorted(range(len(users)), key=lambda position: not len(relevant[position]))[:_MAX_EXAMPLES]
    examples: list[Example] = []
    for position in chosen:
        history = _items_of(known, users[position])
        scores = _scores(queries[position : position + 1], vectors, [left_out[position]])[0]  # [item_count]
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order])]
        recommendations = [
            Recommendation(titles[item], float(scores[item]), bool(item in relevant[position])) for item in order[:_TOP]
        ]
        held_out = [HeldOutItem(titles[item], int(np.flatnonzero(order == item)[0]) + 1) for item in relevant[position]]
        examples.append(
            Example(
                user=user_ids[users[position]],
                history=[titles[item] for item in history[::-1][:_MAX_HISTORY]],
                known_count=len(np.unique(history)),
                recommendations=recommendations,
                held_out=sorted(held_out, key=lambda item: item.rank),
            )
        )
    return examples


def _items_of(events: Events, user: int) -> np.ndarray:
    """Returns the item rows of a user's events, oldest first: [n] int32."""
    same = np.int32(user)  # with another type, NumPy would convert the whole array
    return events.items[np.searchsorted(events.users, same) : np.searchsorted(events.users, same, side="right")]


def _scores(queries: np.ndarray, vectors: np.ndarray, left_out: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the dot products, [n, item_count] float32; -inf for the items to leave out of each row."""
    scores = queries @ vectors.T  # [n, item_count]
    for row, items in enumerate(left_out):
        scores[row, items] = -np.inf
    return scores
