"""Requests to feature columns; everything wrong with a request is said at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from bundle.event_values import REQUEST_TIME, EventValue, RequestTime
from bundle.features import Categorical, Feature, FeatureSchema, Numeric
from bundle.texts import Text
from serving.errors import InvalidRequest
from two_tower.query.v1 import query_tower_service_pb2 as pb

MAX_VALUES = 10_000
MAX_CHARACTERS = 1024
_MAX_VIOLATIONS = 20
_KINDS = {"string": "strings", "int": "ints", "float": "floats"}
_SCALARS = (Categorical, Numeric, Text, RequestTime)
_FIELDS: dict[str, Callable[[pb.FeatureValues], Any]] = {name: attrgetter(name) for name in _KINDS.values()}


def check_batch(count: int, max_batch_size: int) -> None:
    """Checks how many queries there are.

    Raises:
        InvalidRequest: none, or too many.
    """
    if not 1 <= count <= max_batch_size:
        raise InvalidRequest([("queries", f"{count} queries, expected 1 to {max_batch_size}")])


def read_columns(
    queries: Sequence[pb.Query], schema: FeatureSchema, now_s: float | None = None
) -> dict[str, list[Any]]:
    """Returns raw values by feature name, each [len(queries)]; as `bundle.features.FeatureSchema.encode` takes them.

    Args:
        queries: of the request.
        schema: what a query may carry.
        now_s: when queries are made that do not say it, in seconds since 1970. None: the schema has no such feature.

    Raises:
        InvalidRequest: with up to 20 violations.
    """
    features = schema.by_name
    parallel = {name: feature.history for name, feature in features.items() if isinstance(feature, EventValue)}
    columns: dict[str, list[Any]] = {} if now_s is None else {REQUEST_TIME: [now_s] * len(queries)}
    faults: list[tuple[int, str, str]] = []
    for row, query in enumerate(queries):
        for name, message in query.features.items():
            feature = features.get(name)
            if feature is None:
                faults.append((row, name, f"unknown feature; the model reads {', '.join(features) or 'none'}"))
                continue
            values, fault = _read_values(feature, message)
            if fault:
                faults.append((row, name, fault))
                continue
            column = columns.get(name)
            if column is None:
                column = columns[name] = [None] * len(queries)
            if values is not None or name != REQUEST_TIME:
                column[row] = values
        for name, history in parallel.items():
            if fault := _uneven(columns, row, name, history):
                faults.append((row, name, fault))
        if len(faults) >= _MAX_VIOLATIONS:
            break
    if faults:
        named = [(f'queries[{row}].features["{name[:80]}"]', fault) for row, name, fault in sorted(faults)]
        raise InvalidRequest(named[:_MAX_VIOLATIONS])
    return columns


def _read_values(feature: Feature, message: pb.FeatureValues) -> tuple[Any, str]:
    kind = message.WhichOneof("kind")
    if kind is None:
        return None, "no values; set strings, ints or floats, or leave the feature out"
    expected = _KINDS[feature.value_type]
    if kind != expected and (kind, expected) != ("ints", "floats"):
        return None, f"{kind}, expected {expected}"
    values: list[Any] = list(_FIELDS[kind](message).values)
    if len(values) > MAX_VALUES:
        return None, f"{len(values)} values, expected at most {MAX_VALUES}"
    # No value is longer than all of them together, which is known without a look at each.
    if kind == "strings" and message.ByteSize() > MAX_CHARACTERS:
        longest = max(map(len, values), default=0)
        if longest > MAX_CHARACTERS:
            return None, f"a value of {longest} characters, expected at most {MAX_CHARACTERS}"
    if kind == "floats" and not all(map(math.isfinite, values)):
        if not isinstance(feature, EventValue):
            return None, "NaN or infinite, expected finite values"
        if any(map(math.isinf, values)):
            return None, "infinite, expected finite values, or NaN where one is missing"
    if isinstance(feature, _SCALARS):
        if len(values) > 1:
            return None, f"{len(values)} values, expected one: the feature is a scalar"
        return (values[0] if values else None), ""
    return values, ""


def _uneven(columns: dict[str, list[Any]], row: int, name: str, history: str) -> str:
    """Returns what is wrong where a query has values for more or fewer events than ids; else an empty text."""
    values = columns[name][row] if name in columns else None
    if not values:
        return ""
    ids = columns[history][row] if history in columns else None
    count = len(ids or ())
    if len(values) == count:
        return ""
    return f"{len(values)} values, expected {count}: one for each id of {history}, oldest first; or leave it out"
