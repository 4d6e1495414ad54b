"""The form for the features of a query, made from what the query tower service says of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.cli.arguments import parse_features
from two_tower_client.errors import InvalidRequest
from two_tower_client.features import Features, to_query

_HINTS = {
    query_pb2.FEATURE_KIND_CATEGORICAL: "one value",
    query_pb2.FEATURE_KIND_NUMERIC: "a number",
    query_pb2.FEATURE_KIND_HISTORY: "item ids, oldest first: separated by commas, or one a line",
    query_pb2.FEATURE_KIND_MULTI_CATEGORICAL: "values separated by commas, or one a line",
    query_pb2.FEATURE_KIND_TEXT: "text",
    query_pb2.FEATURE_KIND_TIME: "seconds since 1970",
}
_LISTS = (query_pb2.FEATURE_KIND_HISTORY, query_pb2.FEATURE_KIND_MULTI_CATEGORICAL)


@dataclass(frozen=True)
class Field:
    """A field of the form.

    Attributes:
        name: Name of the feature.
        hint: What to write into it.
        description: What the model says about it; may be empty.
        is_list: Whether it takes several values.
        is_number: Whether its values are numbers.
        is_history: Whether its values are ids of items.
    """

    name: str
    hint: str
    description: str
    is_list: bool
    is_number: bool
    is_history: bool


def to_fields(model: query_pb2.OpenModel) -> list[Field]:
    """Returns the fields for the features of a model: histories first, then those of a history's events last."""
    fields = [_to_field(feature) for feature in model.features]
    events = {feature.name for feature in model.features if feature.history}
    return sorted(fields, key=lambda field: (field.name in events, not field.is_history))


def _to_field(feature: query_pb2.Feature) -> Field:
    hint = _HINTS.get(feature.kind, "a value")
    if feature.history:
        hint = f"a value for each id of {feature.history}, separated by commas"
    return Field(
        feature.name,
        hint,
        feature.description,
        is_list=feature.kind in _LISTS or bool(feature.history),
        is_number=feature.value_type != query_pb2.VALUE_TYPE_STRING,
        is_history=feature.kind == query_pb2.FEATURE_KIND_HISTORY,
    )


def read_form(values: Mapping[str, Any], schema: Sequence[query_pb2.Feature]) -> Features:
    """Returns the features that a person has written into the form; empty fields are left out.

    Args:
        values: Text of each field, by name.
        schema: Features that the model reads.

    Raises:
        InvalidRequest: A value is no text, or has another type than its feature.
    """
    kinds = {feature.name: feature for feature in schema}
    texts: list[str] = []
    for name, text in values.items():
        if not isinstance(text, str):
            raise InvalidRequest.in_field(name, f"has to be a text, got {text!r:.80}")
        lines = [line.strip() for line in text.splitlines()]
        if not any(lines):
            continue
        feature = kinds.get(name)
        is_list = feature is not None and (feature.kind in _LISTS or feature.history)
        texts += [f"{name}={line}" for line in lines] if is_list else [f"{name}={text.strip()}"]
    try:
        features = parse_features(texts, schema)
        to_query(features)
        return features
    except InvalidRequest as error:
        raise InvalidRequest(error.message.removeprefix("--feature: "), error.violations) from error


def read_json(text: str) -> Features:
    """Returns the features that a JSON object gives by name.

    Raises:
        InvalidRequest: The text is no such object.
    """
    try:
        features = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f'the features are not JSON: {error}; expected {{"age": 24, "history": ["50"]}}'
        ) from error
    if not isinstance(features, dict):
        raise InvalidRequest('the features are no JSON object; expected {"age": 24, "history": ["50"]}')
    checked = cast("Features", features)
    to_query(checked)
    return checked
