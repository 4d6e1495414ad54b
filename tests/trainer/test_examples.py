"""Training examples: equal to what a request with the same raw values would become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.world import dataset, recipe
from trainer import schema
from trainer.data import Dataset
from trainer.examples import Examples

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


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_equals_the_encoding_of_the_same_raw_request(data: Dataset) -> None:
    events, item_ids = data.events, data.items.ids
    schemas = schema.build(RECIPE, data, events)
    rows = np.random.default_rng(1).permutation(len(events))
    batch = Examples(RECIPE, data, schemas, events).batch(rows)

    requests: dict[str, list[Any]] = {"history": [], "recent": [], "user_id": [], "age": [], "gender": []}
    bought: dict[str, list[Any]] = {"item_id": [], "year": [], "genres": []}
    for row in rows:
        user, item = events.users[row], events.items[row]
        first = int(np.flatnonzero(events.users == user)[0])
        history = [item_ids[i] for i in events.items[first:row]]
        requests["history"].append(history)
        requests["recent"].append(history)
        requests["user_id"].append(data.user_ids[user])
        requests["age"].append(data.user_columns["age"][user])
        requests["gender"].append(data.user_columns["gender"][user])
        bought["item_id"].append(item_ids[item])
        bought["year"].append(data.items.attributes["year"].at(item))
        bought["genres"].append(data.items.attributes["genres"].at(item))
    for side, schema_, columns in (("query", schemas.query, requests), ("item", schemas.item, bought)):
        expected = schema_.encode(columns, len(rows))
        assert batch[side].keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[side][name], values, strict=True, err_msg=name)


def shop(count: int) -> tuple[Dataset, Examples]:
    data = dataset([(f"u{n % 3}", f"i{n % 4 and 1}", float(n)) for n in range(count)])
    return data, Examples(RECIPE, data, schema.build(RECIPE, data, data.events), data.events)


def test_log_q_is_the_share_of_the_item_among_the_events() -> None:
    data, examples = shop(8)
    batch = examples.batch(np.arange(8))
    # i0 in 2 of 8 events, i1 in 6.
    expected = [np.log(0.25) if item == 0 else np.log(0.75) for item in data.events.items]
    assert batch["log_q"].tolist() == pytest.approx(expected)
    assert batch["item_row"].tolist() == data.events.items.tolist()
    assert batch["weight"].tolist() == [1.0] * 8


def epochs(examples: Examples, count: int) -> list[list[list[list[float]]]]:
    return [
        [batch["query"]["history"].tolist() for batch in examples.dataset().as_numpy_iterator()] for _ in range(count)
    ]


def test_each_epoch_is_shuffled_anew_and_the_same_for_the_same_seed() -> None:
    first, second = epochs(shop(11)[1], 2)
    assert len(first) == 2  # two batches of 4; three events wait for the next epoch
    assert first != second
    assert epochs(shop(11)[1], 2) == [first, second]
