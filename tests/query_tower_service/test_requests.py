"""Parsing queries: the shorter path for a single query gives the same model inputs and errors as a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_tower_service.requests import QueryParser
from retrieval.bundle.features.event_kinds import HistoryNumeric
from retrieval.bundle.features.kinds import History
from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary
from retrieval.serving.answering.errors import InvalidRequest
from tests.worlds import SCHEMA
from two_tower.query.v1 import query_tower_service_pb2 as pb

KINDS = {"age": "floats", "gender": "strings", "device": "ints", "likes": "strings", "watched": "strings"}
PARSER = QueryParser(SCHEMA)
words = st.sampled_from(["comedy", "drama", "f", "x", "i1", "i7", "i49", "gone"]) | st.text(max_size=5)
values = st.fixed_dictionaries(
    {},
    optional={
        "age": st.lists(st.floats(-1e6, 1e6, width=32), max_size=1),
        "gender": st.lists(words, max_size=1),
        "device": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=1),
        "likes": st.lists(words, max_size=6),
        "watched": st.lists(words, max_size=9),
    },
)


def inputs_of(parser: QueryParser, queries: list[pb.Query]) -> dict[str, np.ndarray]:
    return SCHEMA.encode(parser.parse(queries), len(queries))


def query_of(features: dict[str, list[Any]]) -> pb.Query:
    query = pb.Query()
    for name, sent in features.items():
        target = getattr(query.features[name], KINDS.get(name, "floats"))
        target.values.extend(sent)
        target.SetInParent()
    return query


@given(st.lists(values, min_size=2, max_size=5))
def test_a_single_query_is_parsed_as_in_a_batch(rows: list[dict[str, list[Any]]]) -> None:
    queries = [query_of(row) for row in rows]
    together = inputs_of(PARSER, queries)
    alone = [inputs_of(PARSER, [query]) for query in queries]
    assert all(inputs.keys() == together.keys() for inputs in alone)
    for name, array in together.items():
        np.testing.assert_array_equal(array, np.concatenate([inputs[name] for inputs in alone]), strict=True)


@pytest.mark.parametrize(
    ("features", "fault"),
    [
        ({"height": [1.0]}, "unknown feature"),
        ({"age": [1.0, 2.0]}, "2 values, expected one"),
        ({"gender": ["f" * 1025]}, "1025 characters"),
        ({"watched": ["i1"] * 10_001}, "10001 values"),
    ],
)
def test_a_single_query_is_refused_as_in_a_batch(features: dict[str, list[Any]], fault: str) -> None:
    for before in ([], [pb.Query()]):
        with pytest.raises(InvalidRequest) as raised:
            PARSER.parse([*before, query_of(features)])
        ((field, description),) = raised.value.violations
        assert field == f'queries[{len(before)}].features["{next(iter(features))}"]'
        assert fault in description


def test_values_of_events_are_checked_against_the_history_of_a_single_query() -> None:
    features = (History("watched", max_values=4), HistoryNumeric("rating", "watched", 4, mean=3.0, std=1.0))
    schema = FeatureSchema(features, {"items": Vocabulary(("i1", "i2"))})
    parser = QueryParser(schema)
    inputs = schema.encode(parser.parse([query_of({"watched": ["i1", "i2"], "rating": [2.0, 4.0]})]), 1)
    np.testing.assert_array_equal(inputs["rating"][0, :2], [[1.0, 1.0], [-1.0, 1.0]])
    with pytest.raises(InvalidRequest, match="1 values, expected 2"):
        parser.parse([query_of({"watched": ["i1", "i2"], "rating": [2.0]})])
