"""What is trained on and what is held out."""

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
"""Of the random split. It is not the recipe's seed, so that trainings with different seeds share one test part."""


@dataclass(frozen=True)
class Parts:
    """A data set, split. Each part keeps the order of `Events`, and holds what answers, of relevance above 0.

    Attributes:
        train: what the model may know.
        valid: held out, for choices.
        test: held out, for the final measure.
        mismatches: pairs of relevance 0 from before what is held out: training learns from them, nothing else does.
            None: there are none.
    """

    train: Events
    valid: Events
    test: Events
    mismatches: Events | None = None

    @cached_property
    def known(self) -> Events:
        """What is known when the test begins: training and validation."""
        return merge(self.train, self.valid)

    def to_fit_on(self, answers: Events) -> Events:
        """Returns what towers are fitted on: `answers`, `train` or `known`, and the pairs that do not match."""
        return answers if self.mismatches is None else merge(answers, self.mismatches)


class Data(NamedTuple):
    """A data set and its split.

    Attributes:
        dataset: Users, items and all events.
        parts: Training, validation and test events of the data set.
    """

    dataset: Dataset
    parts: Parts


def of_drawn_users(known: Events, asked: Events, limit: int) -> tuple[Events, Events]:
    """Returns both of the users that have events in `asked`; of more than `limit` users, the same ones each time."""
    users = np.flatnonzero(asked.user_counts)
    drawn = np.random.default_rng(0).permutation(users)[:limit]
    return known.of(drawn), asked.of(drawn)


def split(dataset: Dataset, how: Split) -> Parts:
    """Returns the parts of a data set. Pairs of relevance 0 that stand among held-out events are in none.

    Raises:
        DataError: a part would be empty.
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
    is_of = (spill.compute(len(events), bool, lambda at, of=of: part[at] == of) for of in (TRAIN, VALID, TEST))
    whole = [*map(events.where, is_of)]
    parts = Parts(*(of_part.answers for of_part in whole), whole[TRAIN].mismatches)
    for name in ("train", "valid", "test"):
        if not len(getattr(parts, name)):
            graded = f", {len(events.answers)} of relevance above 0" if RELEVANCE in events.attributes else ""
            raise DataError(
                f"split {how.kind}: the {name} part is empty ({len(events)} events{graded}, of "
                f"{len(dataset.user_ids)} users); it needs more data or another [split]"
            )
    return parts


def _leave_last_one_out(events: Events, user_count: int) -> np.ndarray:
    """Returns [n] int8: the last answer of each user with at least three is test, the one before it validation.

    What does not match and comes after the latter is in no part.
    """
    part = spill.empty((len(events),), np.int8)
    part[:] = TRAIN
    starts = events.answers.starts(user_count)
    has_held_out = np.diff(starts) >= 3
    ends = starts[1:][has_held_out]
    if events.mismatches is None:
        part[ends - 1] = TEST
        part[ends - 2] = VALID
        return part
    rows = np.flatnonzero(events.relevance > 0)  # of the answers
    for last, end in zip(rows[ends - 2].tolist(), events.starts(user_count)[1:][has_held_out].tolist(), strict=True):
        part[last:end] = _NONE
    part[rows[ends - 1]] = TEST
    part[rows[ends - 2]] = VALID
    return part


def _global_temporal(events: Events, how: Split) -> np.ndarray:
    """Returns [n] int8 by two moments; events of the same moment are never on both sides of one."""
    times = spill.ordered(events.times)
    test_from = times[int((1 - how.test_share) * len(times))]
    valid_from = times[int((1 - how.test_share - how.valid_share) * len(times))]

    def parts_of(block: slice) -> np.ndarray:
        here = events.times[block]
        return np.where(here >= test_from, TEST, np.where(here >= valid_from, VALID, TRAIN))

    return spill.compute(len(events), np.int8, parts_of)


def _random(events: Events, how: Split) -> np.ndarray:
    """Returns [n] int8: shares of the events, drawn at random; the same ones each time."""
    count = len(events)
    place = spill.compute(count, np.int64, lambda block: np.arange(block.start, block.stop))
    np.random.default_rng(_SEED).shuffle(place)
    test, valid = round(how.test_share * count), round(how.valid_share * count)

    def parts_of(block: slice) -> np.ndarray:
        return np.where(place[block] < test, TEST, np.where(place[block] < test + valid, VALID, TRAIN))

    return spill.compute(count, np.int8, parts_of)
