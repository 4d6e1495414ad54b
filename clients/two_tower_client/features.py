"""Features of a query, as Python values -> as the wire wants them."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import cast

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.errors import InvalidRequest

Scalar = str | int | float
FeatureValue = Scalar | Sequence[str | None] | Sequence[int | None] | Sequence[float | None] | None
"""A scalar, or a list or tuple of one type. None and an empty list mean missing; so does a None in a list of what is
known of the events of a history, such as "history.rating"."""

Features = Mapping[str, FeatureValue]
"""The features of one query by name. Any may be left out."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_PLAIN = ({str}, {int}, {float})
"""The types of the values of nearly every feature, each alone."""
_EVENTS = "."
"""Stands in the names of features that tell of the events of a history, and in no other."""


def to_query(features: Features) -> query_pb2.Query:
    """Returns the message of one query; features and errors are those of `write_query`."""
    query = query_pb2.Query()
    write_query(query, features)
    return query


def write_query(query: query_pb2.Query, features: Features, position: int = 0) -> None:
    """Sets the features of an empty message, in place: a message of its own would have to be copied.

    Args:
        query: Of a request.
        features: Its features. Those that are None or empty are left out.
        position: Its place in the batch, for messages.

    Raises:
        InvalidRequest: If a value is of no type that a feature can have.
    """
    if not isinstance(features, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest.in_field(f"queries[{position}]", f"has to map names to values, got {features!r:.80}")
    for name, value in features.items():
        try:
            _write(query, name, value)
        except _Fault as fault:
            raise InvalidRequest.in_field(f"queries[{position}].features[{name}]", str(fault)) from fault.__cause__
        except UnicodeEncodeError as error:
            raise InvalidRequest.in_field(f"queries[{position}].features", f"a name is no text: {error}") from error


class _Fault(ValueError):
    """What is wrong with a feature."""


def _write(query: query_pb2.Query, name: str, value: object) -> None:
    """Sets a feature of a query.

    Raises:
        _Fault: the value is of no type that a feature can have.
        UnicodeEncodeError: the name is no text.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _Fault("a feature name has to be a str")
    items: list[object] = list(cast("Sequence[object]", value)) if isinstance(value, (list, tuple)) else [value]
    of_events = _EVENTS in name
    if of_events:
        items = _fill(items)
    if value is None or not items:
        return
    message = query.features[name]
    message.Clear()  # of a name that comes twice, as in a multi-dict, the last one counts
    types = set(map(type, items))
    # Of one type of Python, as most lists are, there is no need to look at each value.
    kind = types.pop() if types in _PLAIN else _kind_of(items)
    if kind is str:
        _write_strings(message, cast("list[str]", items))
    elif kind is int:
        message.ints.values.extend(_checked_ints(cast("list[int]", items)))
    else:
        message.floats.values.extend(_checked_floats(cast("list[float]", items), of_events))


def _kind_of(items: list[object]) -> type:
    """Returns str, int or float: what all the values are, or stand for.

    Raises:
        _Fault: they are of no such type, or of several.
    """
    # bool counts as an int in Python, and is one of 0 and 1 in no schema.
    if any(isinstance(item, bool) for item in items):
        raise _Fault("bool is no feature type; send a string such as 'true', or 0 and 1")
    for kind, counts in ((str, str), (int, Integral), (float, Real)):
        if all(isinstance(item, counts) for item in items):
            return kind
    names = sorted({type(item).__name__ for item in items})
    if len(names) > 1:
        raise _Fault(f"a list has to be of one type, got {' and '.join(names)}")
    raise _Fault(
        f"has to be str, int, float, or a list or tuple of one of them, got {names[0]} (an array: use .tolist())"
    )


def _fill(items: list[object]) -> list[object]:
    """Returns the values of the events of a history, with what the wire has for None."""
    shown = [item for item in items if item is not None]
    if len(shown) in (0, len(items)):
        return shown
    missing: Scalar = math.nan
    if all(isinstance(item, str) for item in shown):
        missing = ""
    elif all(isinstance(item, Integral) for item in shown):
        missing = _INT64_MIN
    return [missing if item is None else item for item in items]


def _write_strings(message: query_pb2.FeatureValues, values: list[str]) -> None:
    try:
        message.strings.values.extend(values)
    except UnicodeEncodeError as error:
        raise _Fault("is not valid Unicode: it holds a lone surrogate") from error


def _checked_ints(values: list[int]) -> list[int]:
    ints = [int(value) for value in values]
    for value in ints:
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise _Fault(f"{value} does not fit 64 bits; send it as a string")
    return ints


def _checked_floats(values: list[float], of_events: bool) -> list[float]:
    floats = [float(value) for value in values]
    for value in floats:
        if not math.isfinite(value) and not (of_events and math.isnan(value)):
            raise _Fault(f"has to be finite, got {value}; None means missing")
    return floats


def parse_features(texts: Sequence[str], schema: Sequence[query_pb2.Feature]) -> dict[str, FeatureValue]:
    """Returns the features that a command line states, in the types of the schema.

    Args:
        texts: Each `name=value`. The values of a list are separated by commas or, where the name comes several times,
            given one by one as they stand, so that a value may hold a comma; empty ones are dropped.
        schema: The features that the query tower knows.

    Raises:
        InvalidRequest: If one has another form, is not in the schema, or its value is of another type.
    """
    known = {feature.name: feature for feature in schema}
    given: dict[str, list[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidRequest.in_field("--feature", f"{text!r} is not name=value")
        if name not in known:
            raise InvalidRequest.in_field(
                "--feature", f"the model has no feature {name!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
        given.setdefault(name, []).append(value)
    return {name: _parse_values(known[name], values) for name, values in given.items()}


def _parse_values(feature: query_pb2.Feature, texts: list[str]) -> FeatureValue:
    lists = (query_pb2.FEATURE_KIND_HISTORY, query_pb2.FEATURE_KIND_MULTI_CATEGORICAL)
    if feature.kind not in lists and not feature.history:
        if len(texts) > 1:
            raise InvalidRequest.in_field("--feature", f"{feature.name!r} takes one value, got {len(texts)}")
        return _parse_value(feature, texts[0])
    values = texts[0].split(",") if len(texts) == 1 else texts
    if feature.history:
        return cast("FeatureValue", [_parse_value(feature, value) if value else None for value in values])
    return cast("FeatureValue", [_parse_value(feature, value) for value in values if value])


def _parse_value(feature: query_pb2.Feature, text: str) -> Scalar:
    try:
        if feature.value_type == query_pb2.VALUE_TYPE_INT:
            return int(text)
        if feature.value_type == query_pb2.VALUE_TYPE_FLOAT:
            return float(text)
    except ValueError as error:
        kind = "a whole number" if feature.value_type == query_pb2.VALUE_TYPE_INT else "a number"
        raise InvalidRequest.in_field("--feature", f"{feature.name!r} takes {kind}, got {text!r}") from error
    return text
