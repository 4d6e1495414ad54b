"""Model inputs of event features, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryNumeric, HistoryTimes, RequestTime
from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import Feature, FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary

VOCABULARIES = {"items": Vocabulary(("a", "b")), "action": Vocabulary(("buy", "view")), "code": Vocabulary((7, 9))}
HISTORY = History("history", 3)


def schema(*features: Feature) -> FeatureSchema:
    used = {f.vocabulary for f in (HISTORY, *features) if f.vocabulary}
    return FeatureSchema((HISTORY, *features), {name: VOCABULARIES[name] for name in used})


def test_types_are_slots_newest_first_and_missing_ones_padding() -> None:
    action = HistoryCategorical("history.action", "history", 3, vocabulary="action")
    code = HistoryCategorical("history.code", "history", 3, "int", vocabulary="code")
    columns = {
        "history": [["a", "b", "a", "b"], ["a"], None],
        "history.action": [["view", "buy", "", "sell"], [None], None],
        "history.code": [[7, 7, -(2**63), 8], [9], []],
    }
    inputs = schema(action, code).encode(columns, 3)
    # buy 2, view 3, unknown 1, missing 0; the oldest of four does not count.
    assert inputs["history.action"].tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert inputs["history.code"].tolist() == [[1, 0, 2], [3, 0, 0], [0, 0, 0]]
    assert {values.dtype for values in inputs.values()} == {np.dtype(np.int32)}


def test_numbers_are_standardised_and_missing_ones_have_no_presence() -> None:
    rating = HistoryNumeric("history.rating", "history", 3, mean=3.0, std=2.0)
    columns = {"history": [["a", "b", "a"], ["a"], None], "history.rating": [[5, math.nan, 1e9], [None], None]}
    found = schema(rating).encode(columns, 3)["history.rating"]
    # (1e9 - 3) / 2 is clipped to 10; (5 - 3) / 2 is 1.
    assert found.tolist() == [[[10, 1], [0, 0], [1, 1]], [[0, 0]] * 3, [[0, 0]] * 3]
    assert found.dtype == np.float32


def test_the_logarithm_of_amounts_is_standardised() -> None:
    dwell = HistoryNumeric("history.dwell", "history", 2, mean=1.0, std=0.5, log=True)
    # log(1 + e^2 - 1) = 2, so (2 - 1) / 0.5; below 0 counts as 0: (0 - 1) / 0.5.
    found = dwell.encode([[math.e**2 - 1, -4.0]])
    np.testing.assert_allclose(found, [[[-2, 1], [2, 1]]], rtol=1e-6)


def test_ages_are_counted_from_the_request_and_gaps_from_the_event_before() -> None:
    times = HistoryTimes("history.time", "history", 2)
    columns = {
        "history": [["a", "b", "a"], ["b"]],
        "history.time": [[100, 101, 104], [50]],
        "request_time": [107, None],
    }
    both = FeatureSchema((History("history", 2), times, RequestTime()), {"items": VOCABULARIES["items"]})
    found = both.encode(columns, 2)["history.time"]
    # Ages 3 and 6, gaps 3 and 1: log2 of 4, 7, 4 and 2. The second request is made at its newest event.
    expected = [[[2, 1, 2, 1], [math.log2(7), 1, 1, 1]], [[0, 1, 0, 0], [0, 0, 0, 0]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_times_may_be_missing_or_later_than_the_request() -> None:
    times = HistoryTimes("history.time", "history", 3)
    found = times.encode([[100, None, 300], None], [200, 200])
    # The newest is 100 s later than the request: age 0. Neither side of a missing time has a gap.
    expected = [[[0, 1, 0, 0], [0, 0, 0, 0], [math.log2(101), 1, 0, 0]], [[0, 0, 0, 0]] * 3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(st.lists(st.none() | st.lists(st.none() | st.floats(-1e12, 1e12), max_size=6), min_size=1, max_size=4))
def test_a_batch_is_its_rows_and_nothing_is_infinite(rows: list[list[float | None] | None]) -> None:
    rating = HistoryNumeric("history.rating", "history", 3, mean=0.5, std=3.0, log=True)
    times = HistoryTimes("history.time", "history", 3)
    for found, alone in (
        (rating.encode(rows), [rating.encode([row]) for row in rows]),
        (times.encode(rows, [None] * len(rows)), [times.encode([row], [None]) for row in rows]),
    ):
        np.testing.assert_array_equal(found, np.concatenate(alone))
        assert np.isfinite(found).all()


def test_single_events_are_encoded_as_those_of_a_history() -> None:
    rating = HistoryNumeric("history.rating", "history", 4, mean=3.0, std=2.0)
    action = HistoryCategorical("history.action", "history", 4, vocabulary="action")
    numbers, actions = [5.0, None, 1.0, 2.0], ["buy", None, "view", "sell"]
    np.testing.assert_array_equal(rating.encode_events(numbers)[::-1], rating.encode([numbers])[0])
    slots = VOCABULARIES["action"]
    np.testing.assert_array_equal(action.encode_events(actions, slots)[::-1], action.encode([actions], slots)[0])


def test_what_was_not_sent_is_missing() -> None:
    features = (HistoryNumeric("history.rating", "history", 3, 3.0, 2.0), HistoryTimes("history.time", "history", 3))
    inputs = schema(*features, RequestTime()).encode({"history": [["a"]]}, 1)
    assert list(inputs) == ["history", "history.rating", "history.time"]
    assert not inputs["history.rating"].any()
    assert not inputs["history.time"].any()


def test_manifest_gives_the_same_schema_back() -> None:
    before = schema(
        HistoryCategorical("history.action", "history", 3, vocabulary="action"),
        HistoryNumeric("history.rating", "history", 3, mean=3.0, std=2.0, log=True),
        HistoryTimes("history.time", "history", 3),
        RequestTime(),
    )
    values = {name: vocabulary.values for name, vocabulary in VOCABULARIES.items()}
    assert FeatureSchema.from_json(before.to_json(), values) == before


def test_values_of_a_history_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"history\.time: 2 values of the events of 'history', expected a history of"):
        schema(HistoryTimes("history.time", "history", 2))
    with pytest.raises(ValueError, match="have to be finite, std above 0"):
        HistoryNumeric("history.rating", "history", 3, mean=3.0, std=0.0)
