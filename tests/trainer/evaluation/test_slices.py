"""Slices of the evaluation: the group that each user belongs to."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer.data.dataset import Dataset
from trainer.data.splits import Parts
from trainer.evaluation import slices
from trainer.evaluation.evaluate import Task
from trainer.evaluation.metrics import HeldOut, evaluate
from trainer.features.schemas import learn_schemas
from trainer.model import towers
from trainer.model.trained_model import TrainedModel

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def groups_of(known: list[str], held_out: dict[str, str], name: str) -> dict[str, list[str]]:
    """Returns the ids of the users in each group of a slice, by label of the group.

    Args:
        known: item of the one training event of each user: u0, u1 and so on.
        held_out: items of the test events by user id.
        name: name of the slice.
    """
    made = dataset(
        [*((f"u{user}", item, 0.0) for user, item in enumerate(known)), *((u, i, 1.0) for u, i in held_out.items())]
    )
    is_test = made.events.times > 0
    parts = Parts(made.events.where(~is_test), made.events.where(~is_test), made.events.where(is_test))
    item_count = len(made.items.ids)
    held = HeldOut.of(parts.train.pairs, parts.test.pairs, item_count)
    scores = evaluate(held, lambda users: np.zeros((len(users), item_count)))
    trained = parts.train.item_counts(item_count) > 0
    others = {"constant": lambda users: np.zeros((len(users), item_count))}
    found = slices.slices_of(task(made, parts), held, scores, trained, (), others)[name]
    return {label: [made.user_ids[user] for user in group.users] for label, group in found.items()}


def task(made: Dataset, parts: Parts) -> Task:
    chosen = recipe()
    schemas = learn_schemas(chosen, made, parts.train)
    query_tower, item_tower = towers.build(chosen, schemas)
    model = TrainedModel(chosen, schemas, (query_tower.model, item_tower.model))
    return Task(model, made, parts.train, parts.test)


HEAD, MIDDLE, TAIL = "head (half of the events)", "middle (up to 90 %)", "tail"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # Before a, b and c stand 0, 0.5 and 0.9 of the events.
        ("aaaaabbbbc", {HEAD: ["u5"], MIDDLE: ["u0"], TAIL: ["u1"]}),
        # a has 0.8 of the events: it is the head. Before b and c stand 0.8 and 0.9.
        ("aaaaaaaabc", {HEAD: ["u8"], MIDDLE: ["u0"], TAIL: ["u1"]}),
        # b begins at 0.4: the half ends within it. Before c stand 0.8.
        ("aaaabbbbcc", {HEAD: ["u4", "u0"], MIDDLE: ["u1"]}),
    ],
)
def test_the_head_is_the_items_that_have_half_of_the_events(known: str, expected: dict[str, list[str]]) -> None:
    # u0 and u1 know a; held out are b and c. The first user who knows b gets a.
    held_out = {f"u{known.index('b')}": "a", "u0": "b", "u1": "c"}
    found = groups_of(list(known), held_out, "popularity of the held-out item")
    assert {label: sorted(users) for label, users in found.items()} == {k: sorted(v) for k, v in expected.items()}


def test_an_item_that_nobody_had_is_tail_and_cold() -> None:
    known, held_out = list("aaaabb"), {"u0": "b", "u1": "new"}
    assert groups_of(known, held_out, "popularity of the held-out item") == {MIDDLE: ["u0"], TAIL: ["u1"]}
    found = groups_of(known, held_out, "held-out items")
    assert found == {"some in the training": ["u0"], "none in the training": ["u1"]}


def test_users_without_a_known_event_are_evaluated_by_every_method() -> None:
    known, held_out = list("aabb"), {"u0": "b", "u9": "a"}
    assert groups_of(known, held_out, "users without a known event") == {
        "two-tower": ["u9"],
        "constant": ["u9"],
    }
