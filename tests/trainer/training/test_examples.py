"""Training examples, against the encoding of a request with the same raw values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.world import dataset, recipe
from trainer.data.dataset import Dataset
from trainer.features.schemas import learn_schemas
from trainer.recipe.recipe import Recipe
from trainer.training.examples import Examples

MAX_VALUES = 3
HISTORY = {"name": "history", "kind": "history", "max_values": MAX_VALUES}
RECIPE = recipe(
    query_tower={
        "features": [
            HISTORY,
            {**HISTORY, "name": "recent", "max_values": 1},
            {"name": "user_id", "kind": "categorical", "hash_buckets": 5},
            {"name": "age", "kind": "numeric"},
            {"name": "gender", "kind": "categorical", "min_count": 3},
        ]
    },
    item_tower={
        "features": [
            {"name": "item_id", "kind": "categorical", "min_count": 2},
            {"name": "year", "kind": "numeric"},
            {"name": "genres", "kind": "multi_categorical", "max_values": 2},
        ]
    },
    training={"batch_size": 4},
)
CONTEXT, TARGETS = 3, 2

USERS = st.fixed_dictionaries(
    {"age": st.none() | st.floats(0, 120), "gender": st.none() | st.sampled_from(["f", "m", "x"])}
)
ITEMS = st.fixed_dictionaries(
    {
        "year": st.none() | st.integers(1900, 2030),
        "genres": st.none() | st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3),
    }
)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    users = {f"u{n}": draw(USERS) for n in range(4)}
    items = {f"i{n}": draw(ITEMS) for n in range(5)}
    bought = {user: draw(st.lists(st.sampled_from(list(items)), max_size=7)) for user in users}
    purchases = [(user, item, float(at)) for user, row in bought.items() for at, item in enumerate(row)]
    return dataset(purchases or [("u0", "i0", 0.0)], users, items)


def examples_of(data: Dataset, of: Recipe = RECIPE) -> Examples:
    return Examples(of, data, learn_schemas(of, data, data.events), data.events, context=CONTEXT, targets=TARGETS)


def all_batches(examples: Examples) -> list[dict[str, Any]]:
    return list(examples.epoch(0))


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_every_event_is_a_target_once_behind_what_came_before(data: Dataset) -> None:
    events = data.events
    examples = examples_of(data)
    slots = learn_schemas(RECIPE, data, events).query.vocabularies["items"].lookup(data.items.ids)
    found = []
    for batch in all_batches(examples):
        histories = batch["histories"]["history"]  # [batch, length]
        for n, place in enumerate(batch["position"].tolist()):
            row, t = divmod(place, histories.shape[1])
            assert histories[row, t] == slots[batch["item"][n]]
            found.append((int(batch["user"][n]), int(batch["item"][n]), tuple(histories[row, :t].tolist())))
    expected = []
    for row in range(len(events)):
        user = events.users[row]
        first = int(np.flatnonzero(events.users == user)[0])
        target = first + (row - first) // TARGETS * TARGETS  # the first target of its sequence
        before = tuple(slots[events.items[max(first, target - CONTEXT) : row]].tolist())
        expected.append((int(user), int(events.items[row]), before))
    assert sorted(found) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_profiles_equal_the_encoding_of_the_same_raw_request(data: Dataset) -> None:
    schemas = learn_schemas(RECIPE, data, data.events)
    for batch in all_batches(examples_of(data)):
        users = batch["user"].tolist()
        raw = {
            "user_id": [data.user_ids[user] for user in users],
            "age": [data.user_columns["age"][user] for user in users],
            "gender": [data.user_columns["gender"][user] for user in users],
        }
        expected = schemas.query.encode(raw, len(users))
        assert batch["others"].keys() == raw.keys()
        for name, values in batch["others"].items():
            np.testing.assert_array_equal(values, expected[name], strict=True, err_msg=name)


def shop(count: int) -> tuple[Dataset, Examples]:
    data = dataset([(f"u{n % 3}", f"i{n % 4 and 1}", float(n)) for n in range(count)])
    return data, examples_of(data)


def test_log_q_is_the_share_of_the_item_among_the_events() -> None:
    _, examples = shop(8)
    for batch in all_batches(examples):
        # i0 in 2 of 8 events, i1 in 6.
        expected = [np.log(0.25) if item == 0 else np.log(0.75) for item in batch["item"]]
        assert batch["log_q"].tolist() == pytest.approx(expected)
        assert batch["weight"].tolist() == [1.0] * len(expected)


def test_batches_hold_about_as_many_events_as_asked() -> None:
    _, examples = shop(4000)
    sizes = [len(batch["item"]) for batch in all_batches(examples)]
    # 4,000 events and 20 steps at least: 200 an epoch, but sequences of two are not cut.
    assert examples.steps == len(sizes) == 1000
    assert sum(sizes) == 4000
    assert 2 <= min(sizes) <= max(sizes) <= 6


def targets(examples: Examples, first: int, epochs: int) -> list[tuple[int, list[int]]]:
    return [
        (int(number), batch["position"].tolist())
        for number, _, (batch,) in examples.dataset(first, epochs).as_numpy_iterator()
    ]


def test_each_epoch_is_shuffled_anew_and_the_same_for_the_same_seed() -> None:
    both = targets(shop(300)[1], 0, 2)
    first, second = ([batch for number, batch in both if number == epoch] for epoch in (0, 1))
    assert first != second
    assert targets(shop(300)[1], 0, 2) == both
    assert [batch for _, batch in targets(shop(300)[1], 1, 1)] == second  # begun there, as a resumed training does


def test_where_asked_for_only_new_items_are_targets_and_repeats_stay_context() -> None:
    own = recipe(query_tower={"features": [HISTORY]}, training={"batch_size": 4, "novel_targets": True})
    data = dataset([("u0", item, float(at)) for at, item in enumerate(("a", "b", "a", "c", "b", "d"))])
    examples = Examples(own, data, learn_schemas(own, data, data.events), data.events, context=10, targets=10)
    batch = examples.batch(np.arange(1))
    assert [data.items.ids[item] for item in batch["item"]] == ["a", "b", "c", "d"]
    assert batch["position"].tolist() == [0, 1, 3, 5]
    assert (batch["histories"]["history"] > 1).sum() == 6
    assert examples.count == 4


def test_shuffled_events_are_each_item_once_in_another_order_each_epoch_and_no_users_meet() -> None:
    own = recipe(query_tower={"features": [HISTORY]}, training={"batch_size": 4, "event_order": "shuffled"})
    met = {"u0": "abacbdefgh", "u1": "xxyzx"}
    events = [(user, item, float(at)) for user, items in met.items() for at, item in enumerate(items)]
    data = dataset(events)
    schemas = learn_schemas(own, data, data.events)
    examples = Examples(own, data, schemas, data.events, context=10, targets=10)
    assert examples.count == 8 + 3  # a to h, and x, y, z
    slots = schemas.query.vocabularies["items"].lookup(data.items.ids)
    names = {int(slot): item for slot, item in zip(slots, data.items.ids, strict=True)}
    orders = []
    for number in (0, 1, 0):
        order: dict[str, str] = {}
        for batch in examples.epoch(number):
            histories = batch["histories"]["history"]
            for user, item, place in zip(batch["user"], batch["item"], batch["position"].tolist(), strict=True):
                row, t = divmod(place, histories.shape[1])
                before = order.get(data.user_ids[user], "")
                assert "".join(names[slot] for slot in histories[row, :t].tolist()) == before
                order[data.user_ids[user]] = before + data.items.ids[item]
        assert {user: "".join(sorted(items)) for user, items in order.items()} == {"u0": "abcdefgh", "u1": "xyz"}
        orders.append(order)
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


@pytest.mark.parametrize(
    ("lag", "seen"),
    [
        # Baskets at 0, 10 and 20: what is in a basket does not see the rest of it.
        (0.0, {"a": [], "b": [], "c": ["a", "b"], "d": ["a", "b", "c"], "e": ["a", "b", "c"], "f": ["a", "b", "c"]}),
        (10.0, {"a": [], "b": [], "c": [], "d": ["a", "b"], "e": ["a", "b"], "f": ["a", "b"]}),
    ],
)
def test_a_lag_keeps_what_came_shortly_before_out_of_a_history(lag: float, seen: dict[str, list[str]]) -> None:
    own = recipe(query_tower={"features": [HISTORY]}, training={"batch_size": 4, "history_lag": lag})
    baskets = {"a": 0.0, "b": 0.0, "c": 10.0, "d": 20.0, "e": 20.0, "f": 20.0}
    data = dataset([("u0", item, at) for item, at in baskets.items()])
    schemas = learn_schemas(own, data, data.events)
    # The second sequence begins with d: its context reaches back from what d sees, not from d.
    examples = Examples(own, data, schemas, data.events, context=3, targets=3)
    slots = schemas.query.vocabularies["items"].lookup(data.items.ids)
    names = {int(slot): item for slot, item in zip(slots, data.items.ids, strict=True)}
    found = {}
    for batch in all_batches(examples):
        histories = batch["histories"]["history"]
        for item, place in zip(batch["item"].tolist(), batch["position"].tolist(), strict=True):
            row, t = divmod(place, histories.shape[1])
            found[data.items.ids[item]] = [names[slot] for slot in histories[row, :t].tolist()]
    assert found == seen
