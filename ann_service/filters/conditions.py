"""The conditions of a filter: checks of their limits, and their cache keys.

`parse` checks the limits before any other Python code reads the filter, and looks at no more of it than they allow. The
work that follows takes time in proportion to the size of the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from retrieval.serving.answering.errors import InvalidRequest
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_LEVELS = 16
MAX_CONDITIONS = 1000
MAX_VALUES = 10_000
MAX_TOTAL_VALUES = 20_000
"""Largest number of values of all ``equals`` and ``in`` conditions of a filter together."""

VALUES_PER_STEP = 500
"""Number of values that are read from a request in one step, which takes up to 1 ms."""

_KEY_BYTES = 32
_MAX_WRITTEN_BYTES = 1 << 20
_BUCKETS = 16
"""Number of parts in which the values of a condition are sorted, because sorting 10,000 at once takes several ms."""


@dataclass(slots=True, eq=False)
class Condition:
    """A condition of a filter.

    Attributes:
        kind: Name of the field of `pb.Filter` that is set, for instance ``equals``.
        body: Value of that field.
        path: Path of the condition in the request.
        level: Number of levels from the filter down to this condition, from 1.
        parts: Conditions that this one combines or negates; empty for a comparison.
        key: Cache key, 32 bytes; empty until `compute_keys` has run.
    """

    kind: str
    body: Any
    path: str
    level: int
    parts: list[Condition] = field(default_factory=list)
    key: bytes = b""


def parse(filter_: pb.Filter, path: str) -> Steps[list[Condition]]:
    """Returns the conditions of a filter in steps: the whole filter first, each condition before its parts.

    Args:
        filter_: filter of a request.
        path: path of the filter in the request, for violations.

    Raises:
        InvalidRequest: the filter is too deep, has too many conditions or values, or a condition is empty.
    """
    conditions = [_read(filter_, path, 1)]
    value_count = 0
    for condition in conditions:  # grows during the loop
        kind, body, path_ = condition.kind, condition.body, f"{condition.path}.{condition.kind}"
        parts: Sequence[pb.Filter] = ()
        if kind == "equals":
            value_count += 1
        elif kind == "in":
            if not 1 <= len(body.values) <= MAX_VALUES:
                raise invalid(f"{path_}.values", f"{len(body.values)} values, expected 1 to {MAX_VALUES}")
            value_count += len(body.values)
        elif kind == "not":
            parts = (body,)
        elif kind != "range":
            parts = body.filters
            if not parts:
                raise invalid(f"{path_}.filters", "empty, expected at least one condition")
        if value_count > MAX_TOTAL_VALUES:
            raise invalid(path, f"more than {MAX_TOTAL_VALUES} values in all")
        if len(conditions) + len(parts) > MAX_CONDITIONS:
            raise invalid(path, f"more than {MAX_CONDITIONS} conditions in all")
        if parts and condition.level == MAX_LEVELS:
            raise invalid(path_, f"more than {MAX_LEVELS} levels of conditions")
        if kind == "not":
            condition.parts = [_read(body, path_, condition.level + 1)]
        else:
            condition.parts = [
                _read(part, f"{path_}.filters[{number}]", condition.level + 1) for number, part in enumerate(parts)
            ]
        conditions += condition.parts
        yield
    return conditions


def compute_keys(conditions: Sequence[Condition]) -> Steps[None]:
    """Sets the keys of the conditions that `parse` returned, in steps.

    Conditions have the same key if they differ only in the order or repetition of conditions and values, or if one of
    them has ``equals`` where the other has ``in`` with a single value. A key is a digest of a fixed size.
    """
    for condition in reversed(conditions):  # parts come before what combines them
        kind, body = condition.kind, condition.body
        if condition.parts:
            key = _digest(kind, *sorted({part.key for part in condition.parts}))
        elif kind == "range":
            key = _digest(kind, body.SerializeToString())
        else:
            values = [body.value] if kind == "equals" else body.values
            key = _digest("in", body.attribute.encode(), *(yield from _digest_values(values)))
        condition.key = key
        yield


def attributes_of(filter_: pb.Filter) -> list[str]:
    """Returns the names of the attributes that a valid filter compares, some of them more than once."""
    kind = filter_.WhichOneof("condition")
    if kind in ("all_of", "any_of"):
        return [name for part in getattr(filter_, kind).filters for name in attributes_of(part)]
    return attributes_of(getattr(filter_, "not")) if kind == "not" else [getattr(filter_, kind or "").attribute]


def key_as_written(filter_: pb.Filter) -> bytes | None:
    """Returns a key that is quick to compute, but differs between two ways to write the same filter.

    It is computed before the limits are checked, so it is None for a filter of more than 1 MiB.
    """
    written = filter_.SerializeToString(deterministic=True)
    return blake2b(written, digest_size=_KEY_BYTES).digest() if len(written) <= _MAX_WRITTEN_BYTES else None


def invalid(path: str, description: str) -> InvalidRequest:
    """Returns the error of one violation."""
    return InvalidRequest([(path, description)])


def _read(filter_: pb.Filter, path: str, level: int) -> Condition:
    kind = filter_.WhichOneof("condition")
    if kind is None:
        raise invalid(path, "no condition; set equals, in, range, all_of, any_of or not")
    return Condition(kind, getattr(filter_, kind), path, level)


def _digest_values(values: Sequence[pb.AttributeValue]) -> Steps[list[bytes]]:
    """Returns up to `_BUCKETS` digests, which depend neither on the order nor on the repetition of the values."""
    buckets: list[set[bytes]] = [set() for _ in range(_BUCKETS)]
    for start in range(0, len(values), VALUES_PER_STEP):
        for value in values[start : start + VALUES_PER_STEP]:
            encoded = value.SerializeToString()
            # Python salts this hash for each process, so no caller can put all values into one bucket.
            buckets[hash(encoded) % _BUCKETS].add(encoded)
        yield
    digests: list[bytes] = []
    for bucket in filter(None, buckets):
        digests.append(_digest("values", *sorted(bucket)))
        yield
    return digests


def _digest(kind: str, *parts: bytes) -> bytes:
    # The lengths tell apart what would be the same bytes when joined.
    lengths = ",".join(map(str, map(len, parts)))
    return blake2b(b"".join((f"{kind}:{lengths}:".encode(), *parts)), digest_size=_KEY_BYTES).digest()
