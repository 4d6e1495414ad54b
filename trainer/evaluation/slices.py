"""Slices: metrics of groups of users, because the mean over all users can conceal groups with bad results."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.data.dataset import Dataset
from trainer.errors import DataError
from trainer.evaluation.metrics import HeldOut, Scorer, Scores, evaluate
from trainer.evaluation.task import Task

_SHOWN_VALUES = 12
"""Largest number of values of a column that form groups of their own."""


def slices_of(
    task: Task,
    held_out: HeldOut,
    scores: Scores,
    trained: np.ndarray,
    columns: tuple[str, ...],
    others: Mapping[str, Scorer] | None = None,
) -> Mapping[str, Mapping[str, Scores]]:
    """Returns the metrics of the model by slice (way of grouping users), then group; groups without users are omitted.

    Args:
        task: Model and held-out events.
        held_out: Evaluated users.
        scores: Metrics of the model for these users.
        trained: [item_count] bool, whether each item has training events.
        columns: Columns of the users table to slice by, checked by `check_columns`.
        others: Scorers of further methods by name, which are evaluated on the users without known events too.
    """
    slices = {
        "known events": _by_activity(task, scores),
        "popularity of the held-out item": _by_popularity(task, held_out, scores),
        "held-out items": _by_cold_items(held_out, scores, trained),
        "users without a known event": _cold_users(task, held_out, others or {}),
        **{column: _by_column(task, scores, column) for column in columns},
    }
    return {name: groups for name, groups in slices.items() if groups}


def _groups(scores: Scores, labels: list[str], index: np.ndarray) -> dict[str, Scores]:
    return {label: scores.where(index == group) for group, label in enumerate(labels) if (index == group).any()}


def _by_activity(task: Task, scores: Scores) -> dict[str, Scores]:
    counts = np.diff(task.known.starts(len(task.dataset.user_ids)))[scores.users]
    cuts = np.unique(np.quantile(counts, [0.25, 0.5, 0.75]).astype(np.int64))
    low = [int(counts.min()), *(int(cut) + 1 for cut in cuts)]
    labels = [f"{a} to {b}" for a, b in zip(low, [*cuts.tolist(), int(counts.max())], strict=True)]
    return _groups(scores, labels, np.searchsorted(cuts, counts))


def _by_popularity(task: Task, held_out: HeldOut, scores: Scores) -> dict[str, Scores]:
    """Returns the metrics of users, grouped by the popularity of their most popular relevant item."""
    counts = task.known.item_counts(held_out.item_count)
    order = np.argsort(-counts, kind="stable")
    # Share of the events of the more popular items, so that an item with most of the events is in the head.
    before = (np.cumsum(counts[order]) - counts[order]) / max(1, counts.sum())
    tier = np.empty(held_out.item_count, dtype=np.int64)
    tier[order] = np.searchsorted([0.5, 0.9], before, side="right")
    index = np.array([tier[relevant].min() for relevant in held_out.relevant])
    return _groups(scores, ["head (half of the events)", "middle (up to 90 %)", "tail"], index)


def _by_cold_items(held_out: HeldOut, scores: Scores, trained: np.ndarray) -> dict[str, Scores]:
    index = np.array([int(not trained[relevant].any()) for relevant in held_out.relevant])
    groups = _groups(scores, ["some in the training", "none in the training"], index)
    return groups if len(groups) > 1 else {}


def _cold_users(task: Task, held_out: HeldOut, others: Mapping[str, Scorer]) -> dict[str, Scores]:
    """Returns the metrics of each method for the users without known events."""
    pairs = task.held_out.pairs
    pairs = pairs[np.diff(task.known.starts(len(task.dataset.user_ids)))[pairs[:, 0]] == 0]
    if not len(pairs):
        return {}
    users, starts = np.unique(pairs[:, 0], return_index=True)
    relevant = np.split(pairs[:, 1], starts[1:])
    known = [np.zeros(0, dtype=np.int64)] * len(users)
    cold = dataclasses.replace(held_out, users=users, known=known, relevant=relevant)
    return {name: evaluate(cold, method) for name, method in {"two-tower": task.scorer(), **others}.items()}


def check_columns(dataset: Dataset, columns: Sequence[str]) -> None:
    """Checks that the users table has the columns to slice by.

    Raises:
        DataError: The users table lacks one of the columns.
    """
    for column in columns:
        if column not in dataset.user_columns:
            raise DataError(
                f"no attribute {column!r} of the users to slice by; there are {sorted(dataset.user_columns)}"
            )


def _by_column(task: Task, scores: Scores, column: str) -> dict[str, Scores]:
    values = [task.dataset.user_columns[column][user] for user in scores.users]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(set(numbers)) > _SHOWN_VALUES:
        cuts = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75]))
        labels = [f"up to {cut:g}" for cut in cuts] + [f"above {cuts[-1]:g}", "missing"]
        return _groups(
            scores, labels, np.array([len(cuts) + 1 if v is None else int(np.searchsorted(cuts, v)) for v in values])
        )
    texts = ["missing" if value is None else str(value) for value in values]
    frequent = sorted((counts := Counter(texts)), key=lambda text: (-counts[text], text))
    labels = [*frequent[:_SHOWN_VALUES], *(["others"] if len(frequent) > _SHOWN_VALUES else [])]
    group = {label: index for index, label in enumerate(frequent[:_SHOWN_VALUES])}
    return _groups(scores, labels, np.array([group.get(text, _SHOWN_VALUES) for text in texts]))
