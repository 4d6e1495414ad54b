"""Splits a data set into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from trainer.data import spill
from trainer.data.dataset import Dataset
from trainer.data.events import RELEVANCE, Events, merge
from trainer.data.interactions import SPLIT_COLUMN
from trainer.errors import DataError
from trainer.recipe.recipe import Split

TRAIN, VALID, TEST, _NONE = 0, 1, 2, 3
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
_SEED = 0
"""Seed of the random split; not the recipe's seed, so that trainings with different seeds share one test part."""


@dataclass(frozen=True)
class Parts:
    """Parts of a split data set: `train`, `valid` and `test` hold events with relevance above 0.

    Attributes:
        train: Training events.
        valid: Validation events, held out for choices such as the best epoch.
        test: Test events, held out for the final evaluation.
        irrelevant: Events of relevance 0 that are not among the held-out ones, which training uses as labelled
            negatives; None if there are none.
    """

    train: Events
    valid: Events
    test: Events
    irrelevant: Events | None = None

    @cached_property
    def known(self) -> Events:
        """Training and validation events together, which are known at the time of the test."""
        return merge(self.train, self.valid)

    def to_fit_on(self, relevant: Events) -> Events:
        """Returns the events to train on: `relevant`, which is `train` or `known`, and the events of relevance 0."""
        return relevant if self.irrelevant is None else merge(relevant, self.irrelevant)


class Data(NamedTuple):
    """A data set and its split.

    Attributes:
        dataset: Users, items and all events.
        parts: Training, validation and test events of the data set.
    """

    dataset: Dataset
    parts: Parts


def sample_users(known: Events, held_out: Events, limit: int) -> tuple[Events, Events]:
    """Returns the known events and the held-out events of at most `limit` users that have held-out events.

    The users are drawn at random, the same users in every call.
    """
    users = np.flatnonzero(held_out.user_counts)
    drawn = np.random.default_rng(0).permutation(users)[:limit]
    return known.of_users(drawn), held_out.of_users(drawn)


def split(dataset: Dataset, how: Split) -> Parts:
    """Splits a data set. Events of relevance 0 that are among the held-out events are in no part.

    Args:
        dataset: Data set to split.
        how: Kind of split, and its shares or column.

    Raises:
        DataError: A part would be empty.
    """
    events = dataset.events
    match how.kind:
        case "leave_last_one_out":
            part = _leave_last_one_out(events, len(dataset.user_ids))
        case "global_temporal":
            part = _global_temporal(events, how)
        case "random":
            part = _random(events, how)
        case "column":
            names = events.attributes[SPLIT_COLUMN]
            part = spill.compute(len(events), np.int8, lambda block: [PARTS[name] for name in names[block]])
    masks = (spill.compute(len(events), bool, lambda block, n=n: part[block] == n) for n in (TRAIN, VALID, TEST))
    every = [*map(events.where, masks)]
    parts = Parts(*(events_of_part.relevant for events_of_part in every), every[TRAIN].irrelevant)
    for name in ("train", "valid", "test"):
        if not len(getattr(parts, name)):
            graded = f", {len(events.relevant)} of relevance above 0" if RELEVANCE in events.attributes else ""
            raise DataError(
                f"split {how.kind}: the {name} part is empty ({len(events)} events{graded}, of "
                f"{len(dataset.user_ids)} users); it needs more data or another [split]"
            )
    return parts


def _leave_last_one_out(events: Events, user_count: int) -> np.ndarray:
    """Returns the part of each event: [n] int8.

    Of each user with at least three events of relevance above 0, the last one is for the test, the one before it for
    validation. Events of relevance 0 after the latter are in no part.
    """
    part = spill.empty((len(events),), np.int8)
    part[:] = TRAIN
    starts = events.relevant.starts(user_count)
    has_held_out = np.diff(starts) >= 3
    ends = starts[1:][has_held_out]
    if events.irrelevant is None:
        part[ends - 1] = TEST
        part[ends - 2] = VALID
        return part
    rows = np.flatnonzero(events.relevance > 0)  # [m] of relevance above 0
    for last, end in zip(rows[ends - 2].tolist(), events.starts(user_count)[1:][has_held_out].tolist(), strict=True):
        part[last:end] = _NONE
    part[rows[ends - 1]] = TEST
    part[rows[ends - 2]] = VALID
    return part


def _global_temporal(events: Events, how: Split) -> np.ndarray:
    """Returns the part of each event, divided at two points in time: [n] int8.

    Events of the same time are in the same part.
    """
    ordered = spill.ordered(events.times)
    test_from = ordered[int((1 - how.test_share) * len(ordered))]
    valid_from = ordered[int((1 - how.test_share - how.valid_share) * len(ordered))]

    def parts_of(block: slice) -> np.ndarray:
        times = events.times[block]
        return np.where(times >= test_from, TEST, np.where(times >= valid_from, VALID, TRAIN))

    return spill.compute(len(events), np.int8, parts_of)


def _random(events: Events, how: Split) -> np.ndarray:
    """Returns the part of each event, drawn at random, the same in every call: [n] int8."""
    count = len(events)
    ranks = spill.compute(count, np.int64, lambda block: np.arange(block.start, block.stop))
    np.random.default_rng(_SEED).shuffle(ranks)
    test, valid = round(how.test_share * count), round(how.valid_share * count)

    def parts_of(block: slice) -> np.ndarray:
        return np.where(ranks[block] < test, TEST, np.where(ranks[block] < test + valid, VALID, TRAIN))

    return spill.compute(count, np.int8, parts_of)
