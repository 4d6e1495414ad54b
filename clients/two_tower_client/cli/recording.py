"""Reads recorded queries from the query log of a query tower service."""

import json
from collections import deque
from dataclasses import dataclass
from typing import cast

from two_tower_client.errors import InvalidRequest
from two_tower_client.features import Features, to_query

_FLAG = "--queries"


@dataclass(frozen=True, slots=True)
class RecordedQuery:
    """A recorded query.

    Attributes:
        line: Line number in the file, from 1.
        features: Features of the query.
    """

    line: int
    features: Features


def read_queries(path: str, limit: int) -> list[RecordedQuery]:
    """Returns the newest queries of a file, oldest first.

    Args:
        path: Path of a file with one JSON object per line: `{"features": {name: value or list of values}}`. Empty
            lines and an incomplete last line are skipped.
        limit: Largest number of queries, at least 1. The last lines of the file are read.

    Raises:
        InvalidRequest: If the file cannot be read or contains no query, or one of these lines is not a query.
    """
    kept = deque[tuple[int, bytes]](maxlen=limit)
    try:
        with open(path, "rb") as file:
            kept.extend((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise InvalidRequest.in_field(_FLAG, f"cannot read {path!r}: {error.strerror}") from error
    queries = list[RecordedQuery]()
    for number, line in kept:
        try:
            queries.append(RecordedQuery(number, _to_features(json.loads(line))))
        except (ValueError, RecursionError) as error:
            if not line.endswith(b"\n"):
                break
            raise InvalidRequest.in_field(_FLAG, f"{path}, line {number}: is not JSON ({error})") from error
        except InvalidRequest as error:
            raise InvalidRequest.in_field(_FLAG, f"{path}, line {number}: {error.violations[0][1]}") from error
    if not queries:
        raise InvalidRequest.in_field(
            _FLAG, f"{path} contains no query; run the query tower service with --query-log FILE to record some"
        )
    return queries


def _to_features(record: object) -> Features:
    features = cast("dict[str, object]", record).get("features") if isinstance(record, dict) else None
    if not isinstance(features, dict):
        raise InvalidRequest.in_field("line", 'is not {"features": {name: values}}')
    checked = cast("Features", features)
    try:
        to_query(checked)
    except InvalidRequest as error:
        field, description = error.violations[0]
        raise InvalidRequest.in_field("line", f"{field.partition('.')[2]} {description}") from error
    return checked
