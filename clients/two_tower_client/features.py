"""The features of a query: Python values to protobuf messages."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import cast

from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.errors import InvalidRequest

Scalar = str | int | float
FeatureValue = Scalar | Sequence[str | None] | Sequence[int | None] | Sequence[float | None] | None
"""A scalar, or a list or tuple of one type. None and an empty list mean missing. A feature of the events of a history,
such as "history.rating", has one value for each event, and None for an event without one."""

Features = Mapping[str, FeatureValue]
"""The features of one query by name. Any feature may be left out."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_COMMON_TYPES = ({str}, {int}, {float})
_EVENT_MARK = "."
"""The names of features of the events of a history contain this character; no other feature name does."""


def to_query(features: Features) -> query_pb2.Query:
    """Returns the message of one query.

    Raises:
        InvalidRequest: If the type of a value is not allowed for a feature.
    """
    query = query_pb2.Query()
    write_query(query, features)
    return query


def write_query(query: query_pb2.Query, features: Features, position: int = 0) -> None:
    """Writes features into an empty message of a request, which saves copying a separate message into it.

    Args:
        query: Empty message to write to.
        features: The features of the query. Values that are None or empty are left out.
        position: Index of the query in its batch, for error messages.

    Raises:
        InvalidRequest: If the type of a value is not allowed for a feature.
    """
    if not isinstance(features, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest.in_field(f"queries[{position}]", f"has to map names to values, got {features!r:.80}")
    for name, value in features.items():
        try:
            _write(query, name, value)
        except _InvalidValue as error:
            raise InvalidRequest.in_field(f"queries[{position}].features[{name}]", str(error)) from error.__cause__
        except UnicodeEncodeError as error:
            raise InvalidRequest.in_field(
                f"queries[{position}].features", f"a name is not valid Unicode: {error}"
            ) from error


class _InvalidValue(ValueError):
    """The value of a feature is invalid; the text says why."""


def _write(query: query_pb2.Query, name: str, value: object) -> None:
    """Writes one feature into a query.

    Raises:
        _InvalidValue: If the type of the value is not allowed for a feature.
        UnicodeEncodeError: If the name contains a lone surrogate.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _InvalidValue("a feature name has to be a str")
    values: list[object] = list(cast("Sequence[object]", value)) if isinstance(value, (list, tuple)) else [value]
    is_event_feature = _EVENT_MARK in name
    if is_event_feature:
        values = _replace_none(values)
    if value is None or not values:
        return
    message = query.features[name]
    message.Clear()  # a multi-dict may yield a name twice: the last value counts
    types = set(map(type, values))
    # Most lists have a single type, and then the values need no check one by one.
    common_type = types.pop() if types in _COMMON_TYPES else _common_type(values)
    if common_type is str:
        _write_strings(message, cast("list[str]", values))
    elif common_type is int:
        message.ints.values.extend(_checked_ints(cast("list[int]", values)))
    else:
        message.floats.values.extend(_checked_floats(cast("list[float]", values), nan_allowed=is_event_feature))


def _common_type(values: list[object]) -> type:
    """Returns str, int or float: the type that all values have or can be converted to.

    Raises:
        _InvalidValue: If there is no such type.
    """
    # Python counts a bool as an int, but no schema has a feature of type bool.
    if any(isinstance(value, bool) for value in values):
        raise _InvalidValue("bool is not a feature type; send a string such as 'true', or 0 and 1")
    for common_type, accepted in ((str, str), (int, Integral), (float, Real)):
        if all(isinstance(value, accepted) for value in values):
            return common_type
    names = sorted({type(value).__name__ for value in values})
    if len(names) > 1:
        raise _InvalidValue(f"a list has to be of one type, got {' and '.join(names)}")
    raise _InvalidValue(
        f"has to be str, int, float, or a list or tuple of one of them, got {names[0]} (an array: use .tolist())"
    )


def _replace_none(values: list[object]) -> list[object]:
    """Returns the values of an event feature with None replaced by the value that means missing in the protocol.

    That value is "" for strings, -2^63 for ints and NaN for floats. The result is empty if all values are None.
    """
    present = [value for value in values if value is not None]
    if len(present) in (0, len(values)):
        return present
    missing: Scalar = math.nan
    if all(isinstance(value, str) for value in present):
        missing = ""
    elif all(isinstance(value, Integral) for value in present):
        missing = _INT64_MIN
    return [missing if value is None else value for value in values]


def _write_strings(message: query_pb2.FeatureValues, values: list[str]) -> None:
    try:
        message.strings.values.extend(values)
    except UnicodeEncodeError as error:
        raise _InvalidValue("is not valid Unicode: it holds a lone surrogate") from error


def _checked_ints(values: list[int]) -> list[int]:
    ints = [int(value) for value in values]
    for value in ints:
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise _InvalidValue(f"{value} does not fit 64 bits; send it as a string")
    return ints


def _checked_floats(values: list[float], *, nan_allowed: bool) -> list[float]:
    floats = [float(value) for value in values]
    for value in floats:
        if not math.isfinite(value) and not (nan_allowed and math.isnan(value)):
            raise _InvalidValue(f"has to be finite, got {value}; None means missing")
    return floats
