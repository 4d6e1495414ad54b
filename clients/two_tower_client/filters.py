"""Builds conditions on item attributes.

Example:
    >>> wanted = all_of(equals("genres", "Comedy"), in_range("year", min=1990), not_(is_in("language", ["de", "fr"])))
    >>> wanted.all_of.filters[1].range.min
    1990.0
"""

import math
from collections.abc import Iterable
from numbers import Integral, Real

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client.errors import InvalidRequest

Filter = ann_pb2.Filter
Value = str | int | float

_LARGEST_EXACT = 2**53
"""Largest whole number up to which a double holds every one exactly."""


def equals(attribute: str, value: Value) -> Filter:
    """Returns the condition that the attribute equals `value` or, for a list attribute, contains it.

    Raises:
        InvalidRequest: If the value is not a string or a finite number, or is an int of more than 64 bits.
    """
    return Filter(equals=ann_pb2.Equals(attribute=attribute, value=_to_value(attribute, value)))


def is_in(attribute: str, values: Iterable[Value]) -> Filter:
    """Returns the condition that the attribute equals one of `values` or, for a list attribute, contains one.

    Raises:
        InvalidRequest: If `values` is empty or a single string, or one of them is invalid for `equals`.
    """
    if isinstance(values, str):
        raise InvalidRequest.in_field(attribute, f"is_in takes a list of values, got the string {values!r}")
    condition = ann_pb2.In(attribute=attribute, values=[_to_value(attribute, value) for value in values])
    if not condition.values:
        raise InvalidRequest.in_field(attribute, "is_in takes at least one value, got none")
    # `in` and `not` are keywords of Python, so they cannot be written as argument names.
    return Filter(**{"in": condition})  # pyright: ignore[reportArgumentType]


def in_range(attribute: str, *, min: float | None = None, max: float | None = None) -> Filter:
    """Returns the condition that a numeric attribute lies between `min` and `max`, both inclusive.

    Args:
        attribute: Name of the attribute.
        min: Smallest value that matches. Default: no lower bound.
        max: Largest value that matches. Default: no upper bound.

    Raises:
        InvalidRequest: If both bounds are None, or one of them is NaN or an int of more than 64 bits.
    """
    if min is None and max is None:
        raise InvalidRequest.in_field(attribute, "in_range takes `min`, `max` or both, got neither")
    condition = ann_pb2.Range(attribute=attribute)
    for name, bound in (("min", min), ("max", max)):
        if bound is None:
            continue
        if math.isnan(bound):
            raise InvalidRequest.in_field(attribute, "a bound is NaN, expected a number")
        if isinstance(bound, Integral) and abs(int(bound)) > _LARGEST_EXACT:  # a double would round it
            if not -(2**63) <= int(bound) < 2**63:
                raise InvalidRequest.in_field(attribute, f"{bound} does not fit 64 bits")
            setattr(condition, f"{name}_int", int(bound))
        else:
            setattr(condition, name, float(bound))
    return Filter(range=condition)


def all_of(*filters: Filter) -> Filter:
    """Returns the condition that all of `filters` hold.

    Raises:
        InvalidRequest: If there are no filters.
    """
    return Filter(all_of=_combined("all_of", filters))


def any_of(*filters: Filter) -> Filter:
    """Returns the condition that at least one of `filters` holds.

    Raises:
        InvalidRequest: If there are no filters.
    """
    return Filter(any_of=_combined("any_of", filters))


def not_(condition: Filter) -> Filter:
    """Returns the condition that `condition` does not hold. An item without the attribute matches it."""
    return Filter(**{"not": condition})  # pyright: ignore[reportArgumentType]


def _combined(name: str, filters: tuple[Filter, ...]) -> ann_pb2.Filters:
    if not filters:
        raise InvalidRequest.in_field(name, "takes at least one filter, got none")
    return ann_pb2.Filters(filters=filters)


def _to_value(attribute: str, value: object) -> ann_pb2.AttributeValue:
    if isinstance(value, str):
        return ann_pb2.AttributeValue(string_value=value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest.in_field(attribute, f"a value has to be str, int or float, got {value!r:.80}")
    if isinstance(value, Integral):
        if not -(2**63) <= int(value) < 2**63:
            raise InvalidRequest.in_field(attribute, f"{value} does not fit 64 bits")
        return ann_pb2.AttributeValue(int_value=int(value))
    if not math.isfinite(value):
        raise InvalidRequest.in_field(attribute, f"a value has to be finite, got {value}")
    return ann_pb2.AttributeValue(float_value=float(value))
