"""Stored features beside those that a query carries."""

from __future__ import annotations

import math
from typing import Any

import pytest

from query_tower_service.merging import Merger
from retrieval.bundle.features.event_kinds import (
    MISSING_INT,
    HistoryCategorical,
    HistoryNumeric,
    HistoryTimes,
    RequestTime,
)
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary
from retrieval.live_features.records import StoredEvent, StoredUser

SCHEMA = FeatureSchema(
    (
        Numeric("age", mean=40.0, std=10.0),
        Categorical("city", vocabulary="cities"),
        Categorical("device", value_type="int", hash_buckets=16),
        MultiCategorical("likes", max_values=3, vocabulary="cities"),
        History("history", max_values=3),
        HistoryTimes("history.time", "history", 3),
        HistoryNumeric("history.rating", "history", 3, mean=3.0, std=1.0),
        HistoryNumeric("history.weight", "history", 3, mean=0.0, std=1.0),
        HistoryCategorical("history.type", "history", 3, vocabulary="types"),
        HistoryCategorical("history.shelf", "history", 3, value_type="int", hash_buckets=8),
        RequestTime(),
    ),
    {"cities": Vocabulary(("a", "b")), "items": Vocabulary(("i1", "i2")), "types": Vocabulary(("view", "buy"))},
)
EVENTS = [
    StoredEvent("i0", 10.0, "view", 1.0, {"rating": 1.0}),
    StoredEvent("i1", 20.0, "buy", 2.0, {"rating": 5, "shelf": 7}),
    StoredEvent("i2", 30.0),
]


def add(row: dict[str, Any], user: StoredUser, schema: FeatureSchema = SCHEMA) -> tuple[dict[str, Any], int]:
    """Returns the merged row, and how many stored values were wrong."""
    wrong: list[None] = []
    added = Merger(schema).add(row, user, lambda: wrong.append(None))
    assert added.items() <= row.items() or any(value != value for value in added.values())
    return row, len(wrong)


def nan_as_none(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def test_an_empty_query_gets_history_event_values_and_profile() -> None:
    profile = {"age": [24], "city": ["a"], "device": [3], "likes": ["a", "b"], "request_time": [1.0], "gone": [1]}
    row, wrong = add({}, StoredUser(profile, EVENTS))
    assert row.pop("history.rating")[:2] == [1.0, 5]
    assert nan_as_none(row.pop("history.weight")) == [1.0, 2.0, 1.0]
    assert row == {
        "age": 24,
        "city": "a",
        "device": 3,
        "likes": ["a", "b"],
        "history": ["i0", "i1", "i2"],
        "history.time": [10.0, 20.0, 30.0],
        "history.type": ["view", "buy", ""],
        "history.shelf": [MISSING_INT, 7, MISSING_INT],
    }
    assert wrong == 0


def test_what_the_query_carries_wins_feature_by_feature() -> None:
    row, _ = add({"age": 60.0, "likes": []}, StoredUser({"age": [24], "city": ["a"], "likes": ["b"]}, EVENTS))
    assert (row["age"], row["city"], row["likes"], row["history"]) == (60.0, "a", [], ["i0", "i1", "i2"])


@pytest.mark.parametrize("carried", [["i7"], []])
def test_a_history_that_is_carried_keeps_all_stored_events_out(carried: list[str]) -> None:
    row, _ = add({"history": carried}, StoredUser({"city": ["a"]}, EVENTS))
    assert row == {"history": carried, "city": "a"}


def test_one_event_more_than_the_model_reads_is_used_for_the_gap_of_the_oldest() -> None:
    events = [StoredEvent(f"i{number}", float(number)) for number in range(10)]
    row, _ = add({}, StoredUser({}, events))
    assert Merger(SCHEMA).newest == 4
    assert (row["history"], row["history.time"]) == (["i6", "i7", "i8", "i9"], [6.0, 7.0, 8.0, 9.0])


@pytest.mark.parametrize(
    ("profile", "wrong"),
    [
        ({"age": ["old"]}, 1),
        ({"age": [1.0, 2.0]}, 1),
        ({"age": [True]}, 1),
        ({"device": [1.5]}, 1),
        ({"device": [2**63]}, 1),
        ({"age": [10**400]}, 1),
        ({"age": [math.inf]}, 1),
        ({"age": [math.nan]}, 1),
        ({"city": ["\ud800"]}, 1),
        ({"city": [7]}, 1),
        ({"city": ["x" * 1025]}, 1),
        ({"city": [None]}, 1),
        ({"likes": ["a", 7]}, 1),
        ({"likes": ["a"] * 10_001}, 1),
        ({"age": []}, 0),
    ],
)
def test_a_profile_value_of_another_type_counts_as_missing(profile: dict[str, list[Any]], wrong: int) -> None:
    row, count = add({}, StoredUser(profile, []))
    assert row == dict.fromkeys(profile)
    assert count == wrong


def test_an_event_value_of_another_type_is_missing_for_this_event() -> None:
    events = [
        StoredEvent("i1", 1.0, values={"rating": "good", "shelf": 2.5}),
        StoredEvent("i2", 2.0, values={"rating": 2.0, "shelf": 1}),
    ]
    row, wrong = add({}, StoredUser({}, events))
    assert nan_as_none(row["history.rating"]) == [None, 2.0]
    assert row["history.shelf"] == [MISSING_INT, 1]
    assert wrong == 2


def test_a_value_of_an_event_goes_before_its_type_and_weight() -> None:
    row, _ = add({}, StoredUser({}, [StoredEvent("i1", 1.0, "view", 3.0, {"weight": 9.0, "type": "buy"})]))
    assert (row["history.weight"], row["history.type"]) == ([9.0], ["buy"])


def test_item_ids_become_ints_for_a_catalogue_of_ints() -> None:
    schema = FeatureSchema((History("seen", 9, "int"),), {"items": Vocabulary((1, 22))})
    ids = ["22", "022", " 22", "2_2", "-1", "x", "٢", str(2**63), "9" * 100, str(-(2**63) + 1)]
    row, _ = add({}, StoredUser({}, [StoredEvent(item_id, 0.0) for item_id in ids]), schema)
    missing = MISSING_INT
    assert row["seen"] == [22, *[missing] * 3, -1, *[missing] * 4, -(2**63) + 1]


def test_the_history_of_a_query_is_what_it_carries_or_all_that_is_stored() -> None:
    merger, user = Merger(SCHEMA), StoredUser({}, EVENTS)
    assert merger.item_ids({"age": 1.0}, user) == ["i0", "i1", "i2"]
    assert merger.item_ids({"history": ["i9"]}, user) == ["i9"]
    assert merger.item_ids({"history": []}, user) == []
    assert merger.item_ids({}, None) == []
    without = Merger(FeatureSchema((Numeric("age", 1.0, 1.0),), {}))
    assert without.item_ids({}, user) == ["i0", "i1", "i2"]
