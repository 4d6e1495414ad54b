"""Conditions on item attributes.

Example:
    >>> wanted = all_of(equals("genres", "Comedy"), in_range("year", min=1990), not_(is_in("language", ["de", "fr"])))
    >>> wanted.all_of.filters[1].range.min
    1990.0
"""

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client.errors import InvalidRequest

Filter = ann_pb2.Filter
Value = str | int | float


def equals(attribute: str, value: Value) -> Filter:
    """Returns the condition that the attribute is `value` or, for a list attribute, contains it."""
    return Filter(equals=ann_pb2.Equals(attribute=attribute, value=_to_value(attribute, value)))


def is_in(attribute: str, values: Iterable[Value]) -> Filter:
    """Returns the condition that the attribute is one of `values` or, for a list attribute, contains one.

    Raises:
        InvalidRequest: If there are no values, or `values` is one string.
    """
    if isinstance(values, str):
        raise InvalidRequest.in_field(attribute, f"is_in takes a list of values, got the string {values!r}")
    condition = ann_pb2.In(attribute=attribute, values=[_to_value(attribute, value) for value in values])
    if not condition.values:
        raise InvalidRequest.in_field(attribute, "is_in takes at least one value, got none")
    # `in` and `not` are keywords of Python, so neither is an argument or attribute that can be written down.
    return Filter(**{"in": condition})  # pyright: ignore[reportArgumentType]


def in_range(attribute: str, *, min: float | None = None, max: float | None = None) -> Filter:
    """Returns the condition that the attribute, a number, lies in [min, max]; None is no bound.

    Raises:
        InvalidRequest: If both bounds are None, or one is NaN.
    """
    if min is None and max is None:
        raise InvalidRequest.in_field(attribute, "in_range takes `min`, `max` or both, got neither")
    if any(bound is not None and math.isnan(bound) for bound in (min, max)):
        raise InvalidRequest.in_field(attribute, "a bound is NaN, which nothing compares to")
    return Filter(range=ann_pb2.Range(attribute=attribute, min=min, max=max))


def all_of(*filters: Filter) -> Filter:
    """Returns the condition that all of `filters`, at least one, hold."""
    return Filter(all_of=_some("all_of", filters))


def any_of(*filters: Filter) -> Filter:
    """Returns the condition that at least one of `filters` holds."""
    return Filter(any_of=_some("any_of", filters))


def not_(condition: Filter) -> Filter:
    """Returns the condition that `condition` does not hold; an item without the attribute matches it."""
    return Filter(**{"not": condition})  # pyright: ignore[reportArgumentType]


def parse_condition(text: str, attributes: Mapping[str, ann_pb2.AttributeType.ValueType]) -> Filter:
    """Returns the condition that a command line states.

    Args:
        text: `name=value`, `name!=value`, `name>=number` or `name<=number`.
        attributes: The type of each attribute, as the status of the ANN service has it.

    Raises:
        InvalidRequest: If it has another form, names no attribute, or its value is of another type.
    """
    # The first operator counts: "a>=b=c" compares `a` with "b=c".
    match = re.fullmatch(r"([^=<>!]+)(=|!=|>=|<=)(.*)", text, re.DOTALL)
    if match is None:
        raise InvalidRequest.in_field(
            "--where", f"{text!r} is not name=value, name!=value, name>=number or name<=number"
        )
    name, operator, value = match[1].strip(), match[2], match[3].strip()
    if name not in attributes:
        raise InvalidRequest.in_field(
            "--where", f"items have no attribute {name!r}; there are {', '.join(sorted(attributes)) or 'none'}"
        )
    if operator == ">=":
        return in_range(name, min=_number(text, value))
    if operator == "<=":
        return in_range(name, max=_number(text, value))
    condition = equals(name, _parse_value(text, value, attributes[name]))
    return condition if operator == "=" else not_(condition)


def _some(name: str, filters: tuple[Filter, ...]) -> ann_pb2.Filters:
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


def _parse_value(text: str, value: str, kind: ann_pb2.AttributeType.ValueType) -> Value:
    if kind == ann_pb2.ATTRIBUTE_TYPE_INT:
        try:
            return int(value)
        except ValueError as error:
            raise InvalidRequest.in_field(
                "--where", f"{text!r}: {value!r} is no whole number, as the attribute is"
            ) from error
    return _number(text, value) if kind == ann_pb2.ATTRIBUTE_TYPE_FLOAT else value


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InvalidRequest.in_field("--where", f"{text!r}: {value!r} is not a number") from error
