"""The feature encoder: same inputs for one row and for many, shapes, slots and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bundle.features.event_kinds import HistoryCategorical, HistoryNumeric, HistoryTimes, RequestTime
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import FeatureSchema, encode_inputs
from retrieval.bundle.features.text import Text, TextEncoders, TextEncoderSpec
from retrieval.bundle.features.vocabulary import Hashing, Vocabulary
from tests.worlds import SCHEMA

words = st.sampled_from(["comedy", "drama", "f", "x", "i1", "i7", "i49", "gone"]) | st.text(max_size=5)
rows = st.fixed_dictionaries(
    {},
    optional={
        "age": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "gender": st.none() | words,
        "device": st.none() | st.integers(-(2**63), 2**63 - 1),
        "likes": st.none() | st.lists(words, max_size=6),
        "watched": st.none() | st.lists(words, max_size=9),
    },
)


def columns_of(table: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = {name for row in table for name in row}
    return {name: [row.get(name) for row in table] for name in names}


class Letters:
    """Turns a text into the shares of a, b and other characters."""

    spec = TextEncoderSpec("letters", "none", width=3, max_tokens=8, pad_id=0)

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        counts = [[(t or "").count("a"), (t or "").count("b"), len(t or "")] for t in texts]
        return np.array(counts, dtype=np.float32).reshape(-1, 3)


EVERY_KIND = FeatureSchema(
    (
        *SCHEMA.features,
        MultiCategorical("tags", max_values=2, value_type="int", hash_buckets=8),
        Text("query", "letters", 3),
        HistoryCategorical("watched.action", "watched", 4, hash_buckets=5),
        HistoryNumeric("watched.rating", "watched", 4, mean=3.0, std=0.5),
        HistoryNumeric("watched.dwell", "watched", 4, mean=1.0, std=2.0, log=True),
        HistoryTimes("watched.time", "watched", 4),
        RequestTime(),
    ),
    SCHEMA.vocabularies,
    {"letters": Letters.spec},
)
numbers = st.floats(-1e9, 1e9) | st.just(float("nan"))
times = st.integers(0, 2_000_000_000)


@st.composite
def whole_rows(draw: st.DrawFn) -> dict[str, Any]:
    row = draw(rows)
    count = len(row.get("watched") or [])
    parallel = {
        "watched.action": words | st.just(""),
        "watched.rating": numbers | st.none(),
        "watched.dwell": numbers,
        "watched.time": times | st.just(float("nan")),
    }
    lists = {name: st.none() | st.lists(each, min_size=count, max_size=count) for name, each in parallel.items()}
    more = {"tags": st.lists(st.integers(0, 99), max_size=4), "query": st.none() | st.text(), "request_time": times}
    return {**row, **draw(st.fixed_dictionaries({}, optional={**lists, **more}))}


@given(st.lists(whole_rows(), min_size=1, max_size=6))
def test_a_batch_has_the_bytes_of_its_rows_encoded_one_by_one(table: list[dict[str, Any]]) -> None:
    encoders = TextEncoders((Letters(),))
    together = encode_inputs(EVERY_KIND, encoders, columns_of(table), len(table))
    alone = [encode_inputs(EVERY_KIND, encoders, columns_of([row]), 1) for row in table]
    assert all(list(inputs) == list(together) for inputs in alone)
    assert together.keys() == EVERY_KIND.by_name.keys() - {"request_time"}
    for name, array in together.items():
        assert array.shape == (len(table), *EVERY_KIND.by_name[name].input_shape)
        assert all(inputs[name].dtype == array.dtype and inputs[name].shape[0] == 1 for inputs in alone)
        assert array.tobytes() == b"".join(inputs[name].tobytes() for inputs in alone), name


def test_texts_are_not_inputs_of_the_schema_and_need_their_encoder() -> None:
    assert "query" not in EVERY_KIND.encode({"query": ["a b"]}, 1)
    found = encode_inputs(EVERY_KIND, TextEncoders((Letters(),)), {"query": ["abba", None]}, 2)["query"]
    assert found.tolist() == [[2, 2, 4], [0, 0, 0]]
    with pytest.raises(ValueError, match="feature query needs the text encoder 'letters'; there are none"):
        encode_inputs(EVERY_KIND, TextEncoders(), {}, 1)


@given(st.lists(rows, min_size=1, max_size=4))
def test_inputs_have_the_promised_shape_type_and_range(table: list[dict[str, Any]]) -> None:
    inputs = SCHEMA.encode(columns_of(table), len(table))
    assert list(inputs) == ["age", "gender", "device", "likes", "watched"]
    shapes = {name: (array.shape[1:], array.dtype.name) for name, array in inputs.items()}
    assert shapes == {
        "age": ((2,), "float32"),
        "gender": ((), "int32"),
        "device": ((), "int32"),
        "likes": ((3,), "int32"),
        "watched": ((4,), "int32"),
    }
    assert np.isfinite(inputs["age"]).all()
    for name, slot_count in (("gender", 5), ("device", 18), ("likes", 5), ("watched", 52)):
        assert inputs[name].min() >= 0
        assert inputs[name].max() < slot_count


@given(st.lists(st.sampled_from([f"i{n}" for n in range(50)]), max_size=9))
def test_history_is_the_newest_first_then_padding(watched: list[str]) -> None:
    encoded = SCHEMA.encode({"watched": [watched]}, 1)["watched"][0].tolist()
    newest = [int(item[1:]) + 2 for item in watched[::-1][:4]]
    assert encoded == newest + [0] * (4 - len(newest))


def test_slots_by_hand() -> None:
    # Vocabulary value i has slot i + 2; 1 is unknown, 0 is missing.
    encoded = SCHEMA.encode(
        {
            "gender": ["f", "x", "?", None],
            "likes": [["horror", "comedy", "drama", "comedy"], ["?"], [], None],
            "watched": [["i0", "i1", "i2", "i3", "i4"], ["i9", "?"], [], None],
            "age": [40.0, 55.0, None, 1e300],
        },
        4,
    )
    assert encoded["gender"].tolist() == [2, 4, 1, 0]
    assert encoded["likes"].tolist() == [[4, 2, 3], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert encoded["watched"].tolist() == [[6, 5, 4, 3], [1, 11, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # Mean 40, standard deviation 10; extreme values are clipped to ten deviations.
    assert encoded["age"].tolist() == [[0, 1], [1.5, 1], [0, 0], [10, 1]]
    assert encoded["device"].tolist() == [0, 0, 0, 0]


def test_hash_slots_never_change() -> None:
    # CRC-32 of "a", "b" and "7" ends in the hexadecimal digits 3, 9 and 2; two slots come before the first bucket.
    assert Hashing(16).lookup(["a", "b", None, 7, "7"]).tolist() == [5, 11, 0, 4, 4]


def test_column_that_no_feature_reads_is_an_error() -> None:
    with pytest.raises(KeyError, match="height"):
        SCHEMA.encode({"height": [1.0]}, 1)


def test_schema_survives_its_json() -> None:
    vocabularies = {name: list(vocabulary.values) for name, vocabulary in SCHEMA.vocabularies.items()}
    assert FeatureSchema.from_json(SCHEMA.to_json(), vocabularies) == SCHEMA
    assert "text_encoders" not in SCHEMA.to_json()
    raw = EVERY_KIND.to_json()
    assert FeatureSchema.from_json(raw, vocabularies) == EVERY_KIND
    # The form of the manifest, which may not change.
    assert raw["features"][6] == {
        "kind": "text", "name": "query", "encoder": "letters", "width": 3, "value_type": "string", "description": "",
    }  # fmt: skip
    assert raw["text_encoders"] == [
        {"name": "letters", "checkpoint": "none", "width": 3, "max_tokens": 8, "pad_id": 0, "kind": "transformer",
         "precision": "float32"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        {"features": [{"kind": "hologram", "name": "a"}]},
        {"features": [{"kind": "numeric", "name": "a", "mean": 0.0, "std": 1.0, "surprise": 1}]},
        {"features": [{"kind": "numeric", "name": "a", "mean": 0.0}]},
    ],
)
def test_schema_of_another_program_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="feature"):
        FeatureSchema.from_json(raw, {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Numeric("a", 0.0, 0.0),
        lambda: Numeric("a", float("nan"), 1.0),
        lambda: Categorical("a"),
        lambda: Categorical("a", vocabulary="v", hash_buckets=3),
        lambda: History("a", max_values=0),
        lambda: MultiCategorical("a", max_values=10_001, vocabulary="v"),
        lambda: Vocabulary(("a", "a")),
        lambda: Vocabulary(("a", 1)),
        lambda: Hashing(0).slot_count,
        lambda: FeatureSchema((Categorical("a", vocabulary="v"),), {}),
        lambda: FeatureSchema((Categorical("a", hash_buckets=2), Categorical("a", hash_buckets=2)), {}),
        lambda: FeatureSchema((Categorical("a", vocabulary="v"),), {"v": Vocabulary((1, 2))}),
        lambda: FeatureSchema((Text("a", "letters", 3),), {}),
        lambda: FeatureSchema((Text("a", "letters", 4),), {}, {"letters": Letters.spec}),
    ],
)
def test_feature_with_an_impossible_field_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


@pytest.mark.parametrize("single", [True, False])
def test_an_empty_string_is_a_missing_value_as_in_a_table(single: bool) -> None:
    missing: dict[str, Any] = {"gender": None, "likes": [None], "watched": [None, "i1"], "query": None}
    empty = {"gender": "", "likes": [""], "watched": ["", "i1"], "query": ""}
    count = 1 if single else 3
    letters = TextEncoders((Letters(),))
    expected = encode_inputs(EVERY_KIND, letters, columns_of([missing] * count), count)
    for name, values in encode_inputs(EVERY_KIND, letters, columns_of([empty] * count), count).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert Hashing(8).lookup(["", None]).tolist() == Vocabulary(("f",)).lookup(["", None]).tolist() == [0, 0]
