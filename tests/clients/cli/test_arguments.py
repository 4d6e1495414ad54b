"""Parsing the values of `--feature`, `--where`, `--boost`, `--diversity` and `--at-most`."""

import pytest

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client import Boost, Diversify, InvalidRequest
from two_tower_client.cli.arguments import parse_boosts, parse_condition, parse_diversify, parse_features
from two_tower_client.filters import Filter, equals, in_range, not_

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
def test_features_get_the_types_of_the_schema(texts: list[str], features: dict) -> None:
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
def test_says_what_is_wrong_with_a_feature(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_features(texts, SCHEMA)
    assert str(caught.value) == message


ATTRIBUTES = {
    "genres": ann_pb2.ATTRIBUTE_TYPE_STRING_LIST,
    "year": ann_pb2.ATTRIBUTE_TYPE_INT,
    "price": ann_pb2.ATTRIBUTE_TYPE_FLOAT,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("genres=Comedy", equals("genres", "Comedy")),
        ("genres!=Comedy", not_(equals("genres", "Comedy"))),
        ("genres = Sci-Fi & more=less", equals("genres", "Sci-Fi & more=less")),
        ("year=1990", equals("year", 1990)),
        ("year>=1990", in_range("year", min=1990)),
        ("price<=9.5", in_range("price", max=9.5)),
        ("year>=9007199254740993", in_range("year", min=2**53 + 1)),
        ("price=9", equals("price", 9.0)),
        ("genres=>=", equals("genres", ">=")),
    ],
)
def test_conditions(text: str, expected: Filter) -> None:
    assert parse_condition(text, ATTRIBUTES) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("year", "is not name=value"),
        ("year>1990", "is not name=value"),
        ("=1990", "is not name=value"),
        ("colour=red", "no attribute 'colour'; there are genres, price, year"),
        ("year=old", "is not a whole number, which the attribute requires"),
        ("year>=old", "'old' is not a number"),
    ],
)
def test_says_what_is_wrong_with_a_condition(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_condition(text, ATTRIBUTES)


def test_boosts_are_conditions_with_a_weight() -> None:
    assert parse_boosts([["year>=1990", "0.5"], ["genres!=Drama", "-1e-1"]], ATTRIBUTES) == [
        Boost(in_range("year", min=1990), 0.5),
        Boost(not_(equals("genres", "Drama")), -0.1),
    ]
    with pytest.raises(InvalidRequest, match="'year>=1990': weight 'much' is not a number"):
        parse_boosts([["year>=1990", "much"]], ATTRIBUTES)


def test_diversity_and_group_limits() -> None:
    assert parse_diversify(0.0, []) is None
    assert parse_diversify(0.25, []) == Diversify(0.25)
    assert parse_diversify(0.0, ["brand=2", "a=b=3"]) == Diversify(0.0, {"brand": 2, "a=b": 3})
    for texts, fault in (
        (["brand"], "'brand' is not name=count"),
        (["=2"], "is not name"),
        (["brand=-1"], "with a whole number"),
    ):
        with pytest.raises(InvalidRequest, match=fault):
            parse_diversify(0.0, texts)
    with pytest.raises(InvalidRequest, match="'brand' is given twice"):
        parse_diversify(0.0, ["brand=2", "brand=3"])
