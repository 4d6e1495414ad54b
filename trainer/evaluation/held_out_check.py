"""Checks before a training that its result can be judged."""

from __future__ import annotations

import numpy as np

from trainer.data.events import Events
from trainer.data.splits import Data, sample_users
from trainer.errors import DataError
from trainer.evaluation.evaluate import TEST_USERS, VALIDATION_USERS
from trainer.evaluation.metrics import HeldOut
from trainer.evaluation.task import reads_requests
from trainer.recipe.recipe import Recipe


def check_held_out(recipe: Recipe, data: Data) -> None:
    """Checks that validation and test part have a user with something to find.

    Args:
        recipe: Recipe of the training.
        data: Data set and its split.

    Raises:
        DataError: No user of a part can be judged; the message says why, and what to change.
    """
    parts = data.parts
    item_count = len(data.dataset.items.ids)
    valid = sample_users(parts.train, parts.valid, VALIDATION_USERS)  # those that are evaluated
    test = sample_users(parts.known, parts.test, TEST_USERS)
    _check_part(recipe, "validation", *valid, item_count)
    _check_part(recipe, "test", *test, item_count)


def _check_part(recipe: Recipe, name: str, known: Events, held_out: Events, item_count: int) -> None:
    repeats, new_users = recipe.split.repeats, reads_requests(recipe)
    judged = HeldOut.of(known.pairs, held_out.pairs, item_count, repeats=repeats, new_users=new_users)
    if len(judged.users):
        return
    users = np.unique(held_out.pairs[:, 0])
    new_count = 0 if new_users else len(np.setdiff1d(users, known.pairs[:, 0]))
    reasons = []
    if new_count:
        reasons.append(
            f"{new_count} have no events before it: choose another split.kind, such as leave_last_one_out, which holds "
            "out the last events of each user"
        )
    if len(users) > new_count:
        reasons.append(
            f"{len(users) - new_count} have only items in it that they had before: set split.repeats = true, if "
            "finding such items again counts"
        )
    raise DataError(
        f"split {recipe.split.kind}: nothing can be judged on the {name} part: of {len(users)} users in it, "
        f"{' and '.join(reasons)}"
    )
