"""Parses the queries of EmbedQueriesRequest into feature columns. A refusal lists everything that is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from retrieval.bundle.features.event_kinds import REQUEST_TIME, EventValue, RequestTime
from retrieval.bundle.features.kinds import Categorical, Numeric
from retrieval.bundle.features.schema import Feature, FeatureSchema
from retrieval.bundle.features.text import Text
from retrieval.serving.answering.call import SMALL_BYTES
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.serving.answering.wire import decode, decode_parts
from retrieval.steps import Steps
from two_tower.query.v1 import query_tower_service_pb2 as pb

MAX_QUERY_BYTES = 1 << 20
MAX_FEATURES = 1000
MAX_VALUES = 10_000
MAX_CHARACTERS = 1024
MAX_VIOLATIONS = 20
_SCALARS = (Categorical, Numeric, Text, RequestTime)


def decode_request(body: bytes, max_batch_size: int) -> Steps[tuple[pb.EmbedQueriesRequest, Sequence[pb.Query]]]:
    """Returns a request, and its queries. Pauses between the parts of a large one.

    Args:
        body: serialized EmbedQueriesRequest.
        max_batch_size: largest number of queries.

    Raises:
        InvalidRequest: there are no queries, too many, or one that is too large.
        Undecodable: the bytes are not a request.
    """
    if len(body) <= SMALL_BYTES:
        request = decode(body, pb.EmbedQueriesRequest)
        queries: Sequence[pb.Query] = request.queries
    else:
        request, queries = yield from decode_parts(
            body, pb.EmbedQueriesRequest, pb.Query, "queries", max_batch_size, _check_size
        )
    if not 1 <= len(queries) <= max_batch_size:
        raise InvalidRequest([("queries", f"{len(queries)} queries, expected 1 to {max_batch_size}")])
    return request, queries


def _check_size(path: str, body: bytes, start: int, end: int) -> Steps[None]:
    """Checks the size of a query before it is decoded; see `retrieval.serving.answering.wire.decode_parts`."""
    del body
    if end - start > MAX_QUERY_BYTES:
        raise InvalidRequest([(path, f"a query of {end - start} bytes, expected at most {MAX_QUERY_BYTES}")])
    yield from ()


class QueryParser:
    """Parses queries into the feature columns of one model. Safe for several threads."""

    def __init__(self, schema: FeatureSchema) -> None:
        """Takes the schema of the features that a query may have."""
        self._value_parsers = {feature.name: _value_parser(feature) for feature in schema.features}
        self._histories = {f.name: f.history for f in schema.features if isinstance(f, EventValue)}

    def parse(self, queries: Sequence[pb.Query], now_s: float | None = None, first: int = 0) -> dict[str, list[Any]]:
        """Returns raw values by feature name, each [len(queries)], None for a query without the feature.

        `retrieval.bundle.features.schema.FeatureSchema.encode` takes them.

        Args:
            queries: queries of the request.
            now_s: time of the request in seconds since 1970, for queries that do not state a time. None if the schema
                has no feature for the time of the request.
            first: number of the first of these queries in the request, for violations.

        Raises:
            InvalidRequest: queries are invalid; the error lists up to 20 violations.
        """
        return to_columns(self.parse_rows(queries, first), now_s)

    def parse_rows(self, queries: Sequence[pb.Query], first: int = 0) -> list[dict[str, Any]]:
        """Returns the raw values of each query by feature name. None and an empty list are values that are missing.

        Args:
            queries: queries of the request.
            first: number of the first of these queries in the request, for violations.

        Raises:
            InvalidRequest: queries are invalid; the error lists up to 20 violations.
        """
        parsers = self._value_parsers
        rows: list[dict[str, Any]] = []
        faults: list[tuple[int, str, str]] = []
        for row, query in enumerate(queries, first):
            features = query.features  # read by key: items() takes twice as long
            try:
                values = {name: parsers[name](features[name]) for name in features}
                self._check_lengths(values)
            except (KeyError, _Fault):
                faults += [(row, *fault) for fault in self._faults(features)]
                if len(faults) >= MAX_VIOLATIONS:
                    break
            else:
                rows.append(values)
        if faults:
            violations = [(_path(row, name), fault) for row, name, fault in faults]
            raise InvalidRequest(violations[:MAX_VIOLATIONS])
        return rows

    def _check_lengths(self, values: Mapping[str, Any]) -> None:
        """Checks that every feature with one value per event is as long as its history.

        Raises:
            _Fault: a list has another length.
        """
        for name, history in self._histories.items():
            if fault := _length_fault(values, name, history):
                raise _Fault(fault)

    def _faults(self, features: Mapping[str, pb.FeatureValues]) -> list[tuple[str, str]]:
        """Returns everything that is wrong with a query, as pairs of a feature name and a message."""
        if len(features) > MAX_FEATURES:
            return [("", f"{len(features)} features, expected at most {MAX_FEATURES}")]
        faults: list[tuple[str, str]] = []
        values: dict[str, Any] = {}
        for name in sorted(features):
            if name not in self._value_parsers:
                known = ", ".join(self._value_parsers) or "none"
                faults.append((name, f"unknown feature; the model reads {known}"))
                continue
            try:
                values[name] = self._value_parsers[name](features[name])
            except _Fault as fault:
                faults.append((name, str(fault)))
        lengths = ((name, _length_fault(values, name, history)) for name, history in self._histories.items())
        return sorted(faults + [(name, fault) for name, fault in lengths if fault])


def _path(row: int, name: str) -> str:
    """Returns the path of a feature in the request; of all features of the query if there is no name."""
    return f'queries[{row}].features["{name[:80]}"]' if name else f"queries[{row}].features"


def to_columns(rows: Sequence[Mapping[str, Any]], now_s: float | None = None) -> dict[str, list[Any]]:
    """Returns the values of each feature by name, each [len(rows)], None for rows without the feature.

    Args:
        rows: raw values of each query by feature name.
        now_s: time of the request in seconds since 1970; see `QueryParser.parse`.
    """
    if len(rows) == 1:
        columns = {name: [value] for name, value in rows[0].items()}
    else:
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}
    if now_s is not None:
        times = columns.get(REQUEST_TIME, [None] * len(rows))
        columns[REQUEST_TIME] = [now_s if time is None else time for time in times]
    return columns


def users_of(queries: Sequence[pb.Query]) -> dict[int, str]:
    """Returns the users that queries name, by the number of the query.

    Raises:
        InvalidRequest: ids are too long; the error lists up to 20 violations.
    """
    users = {row: query.user_id for row, query in enumerate(queries) if query.user_id}
    violations = [
        (f"queries[{row}].user_id", f"{len(user_id)} characters, expected at most {MAX_CHARACTERS}")
        for row, user_id in users.items()
        if len(user_id) > MAX_CHARACTERS
    ]
    if violations:
        raise InvalidRequest(violations[:MAX_VIOLATIONS])
    return users


class _Fault(ValueError):
    """The values of a feature are invalid; the text says why."""


def _value_parser(feature: Feature) -> Callable[[pb.FeatureValues], Any]:
    """Returns a function that parses the values of a feature: to one value or None for a scalar, else to a list."""
    if feature.value_type == "string":
        read: Callable[[pb.FeatureValues], Sequence[Any]] = _read_strings
    elif feature.value_type == "int":
        read = _read_ints
    else:
        read = _read_event_floats if isinstance(feature, EventValue) else _read_floats
    return _scalar_parser(feature.value_type, read) if isinstance(feature, _SCALARS) else read


def _scalar_parser(
    value_type: str, read: Callable[[pb.FeatureValues], Sequence[Any]]
) -> Callable[[pb.FeatureValues], Any]:
    """Returns a function that parses a scalar: it returns one value, or None for a message without values.

    The function returns a single valid value directly, because calling `read` would take longer.

    Args:
        value_type: type of the scalar: ``"string"``, ``"int"`` or ``"float"``.
        read: function that parses a list; it is called for all other messages, and raises `_Fault` for an invalid one.
    """
    values_of: Callable[[pb.FeatureValues], Sequence[Any]] = attrgetter(f"{value_type}s.values")
    is_valid: Callable[[Any], bool] = _is_short if value_type == "string" else math.isfinite

    def parse_scalar(message: pb.FeatureValues) -> Any:
        values = values_of(message)
        if len(values) == 1 and is_valid(value := values[0]):
            return value
        values = read(message)
        if len(values) == 1:
            return values[0]
        if not values:
            return None
        raise _Fault(f"{len(values)} values, expected one: the feature is a scalar")

    return parse_scalar


def _is_short(value: str) -> bool:
    return len(value) <= MAX_CHARACTERS


# A slice copies the values in one step. It is empty if they are of another kind, so the kind is checked only then.
def _read_strings(message: pb.FeatureValues) -> list[str]:
    values = message.strings.values[:]
    if not values:
        _check_kind(message, "strings")
    # A message of at most so many bytes holds neither a longer value nor too many values.
    elif message.ByteSize() > MAX_CHARACTERS:
        _check_count(values)
        longest = max(map(len, values))
        if longest > MAX_CHARACTERS:
            raise _Fault(f"a value of {longest} characters, expected at most {MAX_CHARACTERS}")
    return values


def _read_ints(message: pb.FeatureValues) -> list[int]:
    values = message.ints.values[:]
    if not values:
        _check_kind(message, "ints")
    _check_count(values)
    return values


def _read_floats(message: pb.FeatureValues) -> Sequence[float]:
    values = _read_numbers(message)
    if not all(map(math.isfinite, values)):
        raise _Fault("NaN or infinite, expected finite values")
    return values


def _read_event_floats(message: pb.FeatureValues) -> Sequence[float]:
    values = _read_numbers(message)
    if any(map(math.isinf, values)):
        raise _Fault("infinite, expected finite values, or NaN where one is missing")
    return values


def _read_numbers(message: pb.FeatureValues) -> Sequence[float]:
    values = message.floats.values[:] or message.ints.values[:]
    if not values:
        _check_kind(message, "floats", "ints")
    _check_count(values)
    return values


def _check_kind(message: pb.FeatureValues, *expected: str) -> None:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _Fault("no values; set strings, ints or floats, or leave the feature out")
    if kind not in expected:
        raise _Fault(f"{kind}, expected {expected[0]}")


def _check_count(values: Sequence[Any]) -> None:
    if len(values) > MAX_VALUES:
        raise _Fault(f"{len(values)} values, expected at most {MAX_VALUES}")


def _length_fault(values: Mapping[str, Any], name: str, history: str) -> str:
    """Returns a message if the list `name` and the list `history` differ in length; "" if not, or if `name` is empty.

    Args:
        values: values of one query by feature name.
        name: name of a feature that has one value for each event of the history.
        history: name of the history.
    """
    if not values.get(name):
        return ""
    value_count, count = len(values[name]), len(values.get(history) or ())
    if value_count == count:
        return ""
    return f"{value_count} values, expected {count}: one for each id of {history}, oldest first; or leave it out"
