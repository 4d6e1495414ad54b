"""Schemas learned from training events; later events must not affect them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import dataset, recipe
from trainer.data import splits
from trainer.data.dataset import Dataset, Events
from trainer.data.splits import Parts
from trainer.errors import DataError
from trainer.evaluation.evaluate import popularity_scorer
from trainer.features.schemas import learn_schemas
from trainer.features.statistics import mean_and_std, whole
from trainer.model.embeddings import encode_items, raw_queries
from trainer.recipe.recipe import Recipe, Split
from trainer.training.examples import Examples

PURCHASES = [
    *(("amy", item, float(at)) for at, item in enumerate(("p1", "p2", "p3", "p1", "p4"))),
    *(("bob", item, float(at)) for at, item in enumerate(("p2", "p2", "p1", "p3"))),
    *(("cem", item, float(at)) for at, item in enumerate(("p4", "p1", "p2"))),
]
USERS: dict[str, dict[str, Any]] = {
    "amy": {"age": 30.0, "gender": "f"},
    "bob": {"age": 40.0, "gender": "m"},
    "cem": {"age": None, "gender": None},
    "zoe": {"age": 99.0, "gender": "x"},  # buys nothing
}
ITEMS: dict[str, dict[str, Any]] = {
    "p1": {"year": 2001, "genres": ["drama"]},
    "p2": {"year": 2002, "genres": ["comedy", "drama"]},
    "p3": {"year": None, "genres": None},
    "p4": {"year": 1990, "genres": ["horror"]},
    "p9": {"year": 1900, "genres": ["silent"]},  # nobody buys it
}
RECIPE = recipe()


def split(data: Dataset) -> Parts:
    return splits.split(data, Split("leave_last_one_out"))


def test_vocabularies_and_statistics_come_from_training_events() -> None:
    data = dataset(PURCHASES, USERS, ITEMS)
    schemas = learn_schemas(RECIPE, data, split(data).train)
    # Left to train on: amy p1 p2 p3, bob p2 p2, cem p4. Events of users: 3, 2, 1; of items: p1 1, p2 3, p3 1, p4 1.
    assert schemas.query.vocabularies["items"].values == ("p1", "p2", "p3", "p4")
    assert schemas.query.vocabularies["query/gender"].values == ("f", "m")
    assert schemas.item.vocabularies["item/genres"].values == ("comedy", "drama", "horror")
    # Ages 30 x3 and 40 x2: mean 34, variance (3 * 16 + 2 * 36) / 5 = 24.
    age = schemas.query.features[1]
    assert (age.name, age.mean, age.std) == ("age", pytest.approx(34.0), pytest.approx(24**0.5))
    # Years 2001, 2002 x3, 1990: mean 9997 / 5 = 1999.4, variance (1.6² + 3 * 2.6² + 9.4²) / 5 = 22.24.
    year = schemas.item.features[1]
    assert (year.name, year.mean, year.std) == ("year", pytest.approx(1999.4), pytest.approx(22.24**0.5))


def test_rare_values_share_the_out_of_vocabulary_slot() -> None:
    features = [{"name": "item_id", "kind": "categorical", "min_count": 2}]
    data = dataset(PURCHASES, USERS, ITEMS)
    schemas = learn_schemas(recipe(item_tower={"features": features}), data, split(data).train)
    assert schemas.item.vocabularies["items"].values == ("p2",)
    assert schemas.query.vocabularies == {**schemas.query.vocabularies, **schemas.item.vocabularies}


def test_a_number_that_never_varies_is_still_finite() -> None:
    data = dataset([("a", f"i{n}", float(n)) for n in range(4)], {"a": {"age": 7.0}})
    schemas = learn_schemas(RECIPE, data, split(data).train)
    assert (schemas.query.features[1].mean, schemas.query.features[1].std) == (7.0, 1.0)
    assert (schemas.item.features[1].mean, schemas.item.features[1].std) == (0.0, 1.0)  # no item has a year


def examples_of(recipe: Recipe, data: Dataset, events: Events) -> dict[str, Any]:
    """Returns all training examples as one batch, with one sequence for each user."""
    schemas = learn_schemas(recipe, data, events)
    examples = Examples(recipe, data, schemas, events, context=10, targets=10)
    return examples.batch(np.arange(len(np.unique(events.users))))


def of_known(recipe: Recipe, data: Dataset, parts: Parts) -> dict[str, Any]:
    """Returns by name all inputs of training and of queries: schemas, features, histories and statistics."""
    schemas = learn_schemas(recipe, data, parts.train)
    batch = examples_of(recipe, data, parts.train)
    catalogue = encode_items(schemas, data)
    users = [data.user_ids.index(user) for user in ("amy", "bob", "cem")]
    counts = popularity_scorer(parts.known, len(data.items.ids))(np.array([0]))[0]
    return {
        "schemas": schemas,
        "query inputs": {name: values.tolist() for name, values in batch["others"].items()},
        "histories": batch["histories"]["history"].tolist(),
        "item inputs": {name: values[batch["item"]].tolist() for name, values in catalogue.items()},
        "log_q": batch["log_q"].tolist(),
        "queries": raw_queries(recipe, data, schemas, parts.known, np.array(users)),
        "popularity": {item: count for item, count in zip(data.items.ids, counts, strict=True) if count},
    }


def test_nothing_of_the_test_part_reaches_training_or_queries() -> None:
    before = dataset(PURCHASES, USERS, ITEMS)
    parts = split(before)
    expected = of_known(RECIPE, before, parts)
    # The future: a user and two items that sort between the others, with values nobody has yet, and what they lead to.
    users = {**USERS, "ann": {"age": 1e6, "gender": "new"}}
    items = {**ITEMS, "p0": {"year": 9999, "genres": ["new"]}, "p25": {"year": 5, "genres": ["drama", "newer"]}}
    later = [("amy", "p25", 90.0), ("ann", "p0", 91.0), ("bob", "p9", 92.0), ("cem", "p25", 93.0), ("zoe", "p1", 94.0)]
    after = dataset([*PURCHASES, *later], users, items)
    held_out = {("amy", 4.0), ("bob", 3.0), ("cem", 2.0)}
    valid = {("amy", 3.0), ("bob", 2.0), ("cem", 1.0)}
    when = [(after.user_ids[user], time) for user, time in zip(after.events.users, after.events.times, strict=True)]
    is_test = np.array([moment in held_out or moment[1] >= 90 for moment in when])
    is_valid = np.array([moment in valid for moment in when])
    events = after.events
    moved = Parts(events.where(~is_test & ~is_valid), events.where(is_valid), events.where(is_test))
    assert len(moved.test) == len(parts.test) + 5
    assert of_known(RECIPE, after, moved) == expected


def test_the_same_change_in_the_training_part_does_show() -> None:
    before = dataset(PURCHASES, USERS, ITEMS)
    after = dataset([("amy", "p9", -1.0), *PURCHASES], USERS, ITEMS)
    expected, found = of_known(RECIPE, before, split(before)), of_known(RECIPE, after, split(after))
    assert all(found[name] != expected[name] for name in expected)


@pytest.mark.parametrize("at", range(12))
def test_an_item_reaches_only_the_queries_after_it(at: int) -> None:
    data = dataset(PURCHASES, USERS, ITEMS)
    items = data.events.items.copy()
    items[at] = 2 if items[at] != 2 else 0  # p3, or p1
    changed = replace(data.events, items=items)
    before, after = (prefixes(examples_of(RECIPE, data, events)) for events in (data.events, changed))
    differs = [one != other for one, other in zip(before, after, strict=True)]
    ends = {0: 5, 1: 9, 2: 12}  # where the events of amy, bob and cem end
    assert np.flatnonzero(differs).tolist() == list(range(at + 1, ends[int(data.events.users[at])]))


def prefixes(batch: dict[str, Any]) -> list[list[int]]:
    """Returns for each target the slots of the items before it in its sequence."""
    histories = batch["histories"]["history"]
    places = (divmod(int(place), histories.shape[1]) for place in batch["position"])
    return [histories[row, :t].tolist() for row, t in places]


def test_numbers_too_large_to_be_averaged_are_named() -> None:
    with pytest.raises(DataError, match="age: its numbers are too large"):
        mean_and_std(whole([1e308, -1e308, 1e308], np.ones(3, np.int64)), "age")
