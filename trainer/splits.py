"""What is trained on and what is held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data import SPLIT_COLUMN, Dataset, Events
from trainer.errors import DataError
from trainer.recipe import Split

TRAIN, VALID, TEST = 0, 1, 2
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
_SEED = 0
"""Of the random split. It is not the recipe's seed, so that trainings with different seeds share one test part."""


@dataclass(frozen=True)
class Parts:
    """A data set, split. Each part keeps the order of `Events`."""

    train: Events
    valid: Events
    test: Events

    @property
    def known(self) -> Events:
        """What is known when the test begins: training and validation."""
        return merge(self.train, self.valid)


def merge(first: Events, second: Events) -> Events:
    """Returns both, sorted by user, then time; at the same time those of `first` come before those of `second`."""
    both = first.followed_by(second)
    return both.take(np.lexsort((both.times, both.users)))


def split(dataset: Dataset, how: Split) -> Parts:
    """Returns the parts of a data set.

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
            part = np.array([PARTS[name] for name in events.attributes[SPLIT_COLUMN]], dtype=np.int8)
    parts = Parts(*(events.where(part == number) for number in (TRAIN, VALID, TEST)))
    for name in ("train", "valid", "test"):
        if not len(getattr(parts, name)):
            raise DataError(
                f"split {how.kind}: the {name} part is empty ({len(events)} events of {len(dataset.user_ids)} users); "
                "it needs more data or another [split]"
            )
    return parts


def _leave_last_one_out(events: Events, user_count: int) -> np.ndarray:
    """Returns [n] int8: the last event of each user with at least three is test, the one before it validation."""
    starts = events.starts(user_count)
    ends = starts[1:][np.diff(starts) >= 3]
    part = np.full(len(events), TRAIN, dtype=np.int8)
    part[ends - 1] = TEST
    part[ends - 2] = VALID
    return part


def _global_temporal(events: Events, how: Split) -> np.ndarray:
    """Returns [n] int8 by two moments; events of the same moment are never on both sides of one."""
    times = np.sort(events.times)
    test_from = times[int((1 - how.test_share) * len(times))]
    valid_from = times[int((1 - how.test_share - how.valid_share) * len(times))]
    return np.where(events.times >= test_from, TEST, np.where(events.times >= valid_from, VALID, TRAIN)).astype(np.int8)


def _random(events: Events, how: Split) -> np.ndarray:
    """Returns [n] int8: shares of the events, drawn at random; the same ones each time."""
    count = len(events)
    place = np.random.default_rng(_SEED).permutation(count)
    test, valid = round(how.test_share * count), round(how.valid_share * count)
    return np.where(place < test, TEST, np.where(place < test + valid, VALID, TRAIN)).astype(np.int8)
