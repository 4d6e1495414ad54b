"""Checks for probable mistakes in a data set. They produce notes, and never stop a training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.recipe.recipe import Recipe

_BIG_USER = 0.05
"""Smallest share of all events by one user that gives a note, if it is also three times the mean."""
_MISSING = 0.95
"""Smallest share of missing cells of a column that gives a note."""
_SAME_TIME = 0.05
"""Smallest share of events with the same time that gives a note."""
_TIED = 0.25
"""Smallest share of events whose user has another event at the same time that gives a note."""
_SAMPLE_SIZE = 5_000_000
"""Approximate number of events whose times and columns are checked: the checks need them in memory."""
_YEAR_S = 365 * 86_400

MANY_REPEATS = 0.5
"""Smallest share of repeated interactions for which `init` asks whether they should count."""


def find_mistakes(recipe: Recipe, dataset: Dataset, *, now: float | None = None) -> list[str]:
    """Returns a sentence for each probable mistake, with figures and what to do.

    Args:
        recipe: Recipe of the data set.
        dataset: Data set to check.
        now: Current time in seconds since 1970. Default: the time of the clock.
    """
    now = time.time() if now is None else now
    events, notes = _sample(dataset.events)
    notes += _check_users(dataset)
    if recipe.interactions.time is not None:
        notes += [*_check_times(events.times, now), *_check_shared_times(events)]
    items = {name: dataset.item_column(name) for name in dataset.items.attributes}
    notes += _check_item_attributes(items)
    tables = (("items", items), ("users", dataset.user_columns), ("interactions", _event_columns(recipe, events)))
    for table, columns in tables:
        for name, column in columns.items():
            notes += _check_column(f"{table}.attributes.{name}", column)
    return notes


def _sample(events: Events) -> tuple[Events, list[str]]:
    """Returns the events to check, and notes about the choice.

    If there are many events, those of every k-th user are returned, with one note that says so.
    """
    if len(events) <= _SAMPLE_SIZE:
        return events, []
    step = -(-len(events) // _SAMPLE_SIZE)
    sample = events.of_users(np.flatnonzero(events.user_counts)[::step])
    return sample, [
        f"the notes on times and columns of the interactions are of {len(sample):,} interactions: those of one user in "
        f"{step}."
    ]


def _check_users(dataset: Dataset) -> Iterator[str]:
    counts = np.diff(dataset.events.starts(len(dataset.user_ids)))
    big, mean = int(counts.argmax()), counts[counts > 0].mean()
    if counts[big] > max(_BIG_USER * counts.sum(), 3 * mean):
        yield (
            f"user {dataset.user_ids[big]!r} has {counts[big] / counts.sum():.1%} of all interactions "
            f"({counts[big]:,}): a robot, a shared account or a placeholder? Leave out what is not a person."
        )


def _check_times(times: np.ndarray, now: float) -> Iterator[str]:
    old, future = int((times < _YEAR_S).sum()), int((times > now + 86_400).sum())
    if old:
        yield (
            f"{old:,} interactions are dated before 1971: a missing time written as 0, or a rank instead of a time? "
            "Mend them, or leave out interactions.time where the order of the rows is meant."
        )
    if future:
        yield f"{future:,} interactions lie in the future: check the clock, the time zone and the unit of the times."


def _check_shared_times(events: Events) -> Iterator[str]:
    order = np.lexsort([events.items, events.times, events.users])
    columns = (events.users[order], events.items[order], events.times[order])
    repeats = int(np.logical_and.reduce([np.diff(column) == 0 for column in columns]).sum())
    if repeats:
        yield (
            f"{repeats:,} interactions repeat another one in user, item and time: were rows written "
            "twice? They count twice in training; keep one of each."
        )
    moments, counts = np.unique(events.times, return_counts=True)
    most = int(counts.argmax())
    if len(moments) > 1 and counts[most] >= 10 and counts[most] > _SAME_TIME * len(events):
        yield (
            f"{counts[most]:,} interactions ({counts[most] / len(events):.1%}) have the same time, {moments[most]:.0f} "
            "s since 1970: an import, or a placeholder? Their order is that of the rows."
        )
    same = (np.diff(events.users) == 0) & (np.diff(events.times) == 0)
    tied = int((np.append(same, False) | np.append(False, same)).sum())
    if tied > _TIED * len(events):
        yield (
            f"{tied / len(events):.1%} of the interactions share their time with another one of the same user: the "
            "order of the rows decides which is the last, and held-out events are partly arbitrary."
        )


def _check_item_attributes(columns: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    if columns:
        count = sum(all(value is None for value in row) for row in zip(*columns.values(), strict=True))
        if count:
            yield f"{count:,} items have no attribute at all: nothing but their own interactions can place them."


def _event_columns(recipe: Recipe, events: Events) -> dict[str, list[Any]]:
    return {name: events.attributes[name].tolist() for name in recipe.interactions.attributes}


def _check_column(name: str, column: Sequence[Any]) -> Iterator[str]:
    values = [tuple(value) if isinstance(value, list) else value for value in column if value is not None]
    missing = 1 - len(values) / len(column)
    if missing > _MISSING:
        yield f"{name} is missing in {missing:.1%} of the rows: it can teach little; leave it out, or fill it in."
    elif len(values) > 1 and len(set(values)) == 1:
        yield f"{name} has the one value {values[0]!r}: it can teach nothing; leave it out."
