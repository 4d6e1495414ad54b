"""Python values, and those of a command line, as features."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client import InvalidRequest
from two_tower_client.features import FeatureValue, parse_features, to_query, write_query

ONE_OF = "has to be str, int, float, or a list or tuple of one of them"


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        ("en", "strings", ["en"]),
        (24, "ints", [24]),
        (0.5, "floats", [0.5]),
        (["50", "181"], "strings", ["50", "181"]),
        ((1, 2), "ints", [1, 2]),
        ([1, 2.5], "floats", [1.0, 2.5]),
        (-(2**63), "ints", [-(2**63)]),
        (np.int64(7), "ints", [7]),
        (np.float32(0.5), "floats", [0.5]),
        ("", "strings", [""]),
    ],
)
def test_types_on_the_wire(value: FeatureValue, kind: str, values: list) -> None:
    message = to_query({"x": value}).features["x"]
    assert message.WhichOneof("kind") == kind
    assert list(getattr(message, kind).values) == values


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        (["buy", None], "strings", ["buy", ""]),
        ([None, 5, 3], "ints", [-(2**63), 5, 3]),
        ([None, 5, 2.5], "floats", ["nan", "5.0", "2.5"]),
        ([1.5, float("nan")], "floats", ["1.5", "nan"]),
        ([5, 3], "ints", [5, 3]),
    ],
)
def test_single_values_of_the_events_of_a_history_may_be_missing(value: FeatureValue, kind: str, values: list) -> None:
    message = to_query({"history.x": value}).features["history.x"]
    assert message.WhichOneof("kind") == kind
    found = getattr(message, kind).values
    assert [str(one) for one in found] == values if kind == "floats" else list(found) == values


def test_values_that_all_events_lack_are_left_out() -> None:
    assert list(to_query({"history": ["50", "181"], "history.x": [None, None]}).features) == ["history"]


@pytest.mark.parametrize("value", [None, [], ()])
def test_missing_values_are_left_out(value: FeatureValue) -> None:
    assert list(to_query({"age": value, "language": "en"}).features) == ["language"]


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (True, "bool is no feature type; send a string such as 'true', or 0 and 1"),
        ([1, False], "bool is no feature type; send a string such as 'true', or 0 and 1"),
        (["50", 181], "a list has to be of one type, got int and str"),
        (["50", None], "a list has to be of one type, got NoneType and str"),
        (2**63, "9223372036854775808 does not fit 64 bits; send it as a string"),
        (float("nan"), "has to be finite, got nan; None means missing"),
        ([1.0, float("inf")], "has to be finite, got inf; None means missing"),
        (b"50", f"{ONE_OF}, got bytes (an array: use .tolist())"),
        (np.ones(2), f"{ONE_OF}, got ndarray (an array: use .tolist())"),
        ("\ud800", "is not valid Unicode: it holds a lone surrogate"),
    ],
)
def test_rejects_before_the_wire(value: FeatureValue, description: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        write_query(query_pb2.Query(), {"x": value}, position=3)
    assert caught.value.violations == (("queries[3].features[x]", description),)


def test_rejects_features_that_are_no_mapping() -> None:
    with pytest.raises(InvalidRequest, match=r"queries\[0\]: has to map names to values"):
        to_query([("age", 24)])  # pyright: ignore[reportArgumentType]


@given(st.dictionaries(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)))
def test_every_int64_arrives(features: dict[str, list[int]]) -> None:
    query = query_pb2.Query.FromString(to_query(features).SerializeToString())
    assert {name: list(values.ints.values) for name, values in query.features.items()} == features


SCHEMA = [
    query_pb2.Feature(name="age", kind=query_pb2.FEATURE_KIND_NUMERIC, value_type=query_pb2.VALUE_TYPE_FLOAT),
    query_pb2.Feature(name="zone", kind=query_pb2.FEATURE_KIND_CATEGORICAL, value_type=query_pb2.VALUE_TYPE_INT),
    query_pb2.Feature(name="history", kind=query_pb2.FEATURE_KIND_HISTORY, value_type=query_pb2.VALUE_TYPE_STRING),
    query_pb2.Feature(name="shops", kind=query_pb2.FEATURE_KIND_MULTI_CATEGORICAL, value_type=query_pb2.VALUE_TYPE_INT),
    query_pb2.Feature(
        name="history.stars",
        kind=query_pb2.FEATURE_KIND_NUMERIC,
        value_type=query_pb2.VALUE_TYPE_FLOAT,
        history="history",
    ),
    query_pb2.Feature(name="text", kind=query_pb2.FEATURE_KIND_TEXT, value_type=query_pb2.VALUE_TYPE_STRING),
]


@pytest.mark.parametrize(
    ("texts", "features"),
    [
        (["age=24"], {"age": 24.0}),
        (["zone=7", "age=1e3"], {"zone": 7, "age": 1000.0}),
        (["history=50,181"], {"history": ["50", "181"]}),
        (["history=50"], {"history": ["50"]}),
        (["history="], {"history": []}),
        (["shops=1,2"], {"shops": [1, 2]}),
        (["history=a,b", "history=c"], {"history": ["a,b", "c"]}),
        (["history=a,b", "history="], {"history": ["a,b"]}),
        (["text=red, x=1"], {"text": "red, x=1"}),
        (["history.stars=5,,3"], {"history.stars": [5.0, None, 3.0]}),
        ([], {}),
    ],
)
def test_command_line_takes_the_types_of_the_schema(texts: list[str], features: dict) -> None:
    parsed = parse_features(texts, SCHEMA)
    assert parsed == features
    assert [type(value) for value in parsed.values()] == [type(value) for value in features.values()]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["age"], "--feature: 'age' is not name=value"),
        (
            ["agee=24"],
            "--feature: the model has no feature 'agee'; it has age, history, history.stars, shops, text, zone",
        ),
        (["age=old"], "--feature: 'age' takes a number, got 'old'"),
        (["shops=1,x"], "--feature: 'shops' takes a whole number, got 'x'"),
        (["age=1", "age=2"], "--feature: 'age' takes one value, got 2"),
    ],
)
def test_command_line_says_what_is_wrong(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_features(texts, SCHEMA)
    assert str(caught.value) == message


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a name is no text"):
        to_query({"\ud800": 1})


class Pairs(dict[str, FeatureValue]):
    """Gives a name twice, as a multi-dict does."""

    def items(self):  # type: ignore[override]
        return [("age", 24), ("age", 25)]


def test_of_a_name_that_comes_twice_the_last_one_counts() -> None:
    assert list(to_query(Pairs()).features["age"].ints.values) == [25]


class Lazy:
    """Stands for a value, as a proxy does."""

    def __init__(self, value: object) -> None:
        self._value = value

    @property
    def __class__(self):  # type: ignore[override]
        return type(self._value)


def test_what_stands_for_a_bool_is_refused_as_one() -> None:
    with pytest.raises(InvalidRequest, match="bool is no feature type"):
        to_query({"x": Lazy(True)})  # type: ignore[dict-item]
