"""Conversion of Python values to query features in protobuf."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client import InvalidRequest
from two_tower_client.features import FeatureValue, to_query, write_query

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
def test_single_values_of_an_event_feature_may_be_missing(value: FeatureValue, kind: str, values: list) -> None:
    message = to_query({"history.x": value}).features["history.x"]
    assert message.WhichOneof("kind") == kind
    sent = getattr(message, kind).values
    assert [str(each) for each in sent] == values if kind == "floats" else list(sent) == values


def test_an_event_feature_without_any_value_is_left_out() -> None:
    assert list(to_query({"history": ["50", "181"], "history.x": [None, None]}).features) == ["history"]


@pytest.mark.parametrize("value", [None, [], ()])
def test_missing_values_are_left_out(value: FeatureValue) -> None:
    assert list(to_query({"age": value, "language": "en"}).features) == ["language"]


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (True, "bool is not a feature type; send a string such as 'true', or 0 and 1"),
        ([1, False], "bool is not a feature type; send a string such as 'true', or 0 and 1"),
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


def test_rejects_features_that_are_not_a_mapping() -> None:
    with pytest.raises(InvalidRequest, match=r"queries\[0\]: has to map names to values"):
        to_query([("age", 24)])  # pyright: ignore[reportArgumentType]


@given(st.dictionaries(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)))
def test_every_int64_arrives(features: dict[str, list[int]]) -> None:
    query = query_pb2.Query.FromString(to_query(features).SerializeToString())
    assert {name: list(values.ints.values) for name, values in query.features.items()} == features


def test_rejects_a_name_that_is_not_valid_unicode() -> None:
    with pytest.raises(InvalidRequest, match="a name is not valid Unicode"):
        to_query({"\ud800": 1})


class Pairs(dict[str, FeatureValue]):
    """Yields a name twice, as a multi-dict does."""

    def items(self):  # type: ignore[override]
        return [("age", 24), ("age", 25)]


def test_the_last_value_of_a_repeated_name_counts() -> None:
    assert list(to_query(Pairs()).features["age"].ints.values) == [25]


class Proxy:
    """Has the class of another value."""

    def __init__(self, value: object) -> None:
        self._value = value

    @property
    def __class__(self):  # type: ignore[override]
        return type(self._value)


def test_rejects_a_proxy_of_a_bool() -> None:
    with pytest.raises(InvalidRequest, match="bool is not a feature type"):
        to_query({"x": Proxy(True)})  # type: ignore[dict-item]
