"""Parses the values of `--feature`, `--where`, `--boost`, `--diversity` and `--at-most`."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.errors import InvalidRequest, PermissionDenied
from two_tower_client.features import FeatureValue, Scalar
from two_tower_client.filters import Filter, Value, equals, in_range, not_
from two_tower_client.reranking import Boost, Diversify

_LIST_KINDS = (query_pb2.FEATURE_KIND_HISTORY, query_pb2.FEATURE_KIND_MULTI_CATEGORICAL)


def parse_features(texts: Sequence[str], schema: Sequence[query_pb2.Feature]) -> dict[str, FeatureValue]:
    """Returns the features of a query by name, in the types of the schema.

    Args:
        texts: The values of `--feature`, each `name=value`. A list feature is given either once, with its values
            separated by commas, or several times, with one value each, which may then contain a comma. Empty values are
            dropped; in a feature of the events of a history they become None.
        schema: The features that the model reads.

    Raises:
        InvalidRequest: If a text is not `name=value`, its name is not in the schema, or its value has another type.
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
    return {name: _parse_feature(known[name], values) for name, values in given.items()}


def parse_condition(
    text: str, attributes: Mapping[str, ann_pb2.AttributeType.ValueType] | None, option: str = "--where"
) -> Filter:
    """Returns the condition on an item attribute that a text describes.

    Args:
        text: The condition: `name=value`, `name!=value`, `name>=number` or `name<=number`.
        attributes: Type of each item attribute by name. None: unknown, as the token may not ask for them. A bound is a
            number in any case, and the service checks the attribute.
        option: The option that errors name.

    Raises:
        InvalidRequest: If the text has another form, the attribute is unknown, or the value has another type.
        PermissionDenied: If the type of the value is needed and unknown.
    """
    # The first operator counts: "a>=b=c" compares `a` with "b=c".
    match = re.fullmatch(r"([^=<>!]+)(=|!=|>=|<=)(.*)", text, re.DOTALL)
    if match is None:
        raise InvalidRequest.in_field(option, f"{text!r} is not name=value, name!=value, name>=number or name<=number")
    name, operator, value = match[1].strip(), match[2], match[3].strip()
    if attributes is not None and name not in attributes:
        raise InvalidRequest.in_field(
            option, f"items have no attribute {name!r}; there are {', '.join(sorted(attributes)) or 'none'}"
        )
    if operator == ">=":
        return in_range(name, min=_parse_bound(text, value, option))
    if operator == "<=":
        return in_range(name, max=_parse_bound(text, value, option))
    if attributes is None:
        raise PermissionDenied(
            f"{option}: {text!r} needs the type of the attribute from the status of the ANN service, and the token "
            "lacks its scope, admin; give a token with read,admin, or name>=number and name<=number"
        )
    condition = equals(name, _parse_attribute_value(text, value, attributes[name], option))
    return condition if operator == "=" else not_(condition)


def parse_boosts(
    texts: Sequence[Sequence[str]], attributes: Mapping[str, ann_pb2.AttributeType.ValueType] | None
) -> list[Boost]:
    """Returns the boosts of `--boost`.

    Args:
        texts: Condition and weight of each.
        attributes: Type of each item attribute by name; None: unknown.

    Raises:
        InvalidRequest: If a condition is invalid, see `parse_condition`, or a weight is not a number.
        PermissionDenied: See `parse_condition`.
    """
    boosts = list[Boost]()
    for condition, weight in texts:
        try:
            number = float(weight)
        except ValueError as error:
            raise InvalidRequest.in_field("--boost", f"{condition!r}: weight {weight!r} is not a number") from error
        boosts.append(Boost(parse_condition(condition, attributes, "--boost"), number))
    return boosts


def parse_diversify(diversity: float, group_limits: Sequence[str]) -> Diversify | None:
    """Returns what `--diversity` and `--at-most` ask for; None if that is nothing.

    Raises:
        InvalidRequest: If a group limit is not `name=count`, or a name is given twice.
    """
    if not diversity and not group_limits:
        return None
    limits = dict[str, int]()
    for text in group_limits:
        name, _, count = text.rpartition("=")
        if not name or not count.isdecimal():
            raise InvalidRequest.in_field("--at-most", f"{text!r} is not name=count with a whole number, as in brand=2")
        if name in limits:
            raise InvalidRequest.in_field("--at-most", f"{name!r} is given twice; give one count for each attribute")
        limits[name] = int(count)
    return Diversify(diversity, limits)


def _parse_feature(feature: query_pb2.Feature, texts: list[str]) -> FeatureValue:
    if feature.kind not in _LIST_KINDS and not feature.history:
        if len(texts) > 1:
            raise InvalidRequest.in_field("--feature", f"{feature.name!r} takes one value, got {len(texts)}")
        return _parse_feature_value(feature, texts[0])
    values = texts[0].split(",") if len(texts) == 1 else texts
    if feature.history:
        return cast("FeatureValue", [_parse_feature_value(feature, value) if value else None for value in values])
    return cast("FeatureValue", [_parse_feature_value(feature, value) for value in values if value])


def _parse_feature_value(feature: query_pb2.Feature, text: str) -> Scalar:
    try:
        if feature.value_type == query_pb2.VALUE_TYPE_INT:
            return int(text)
        if feature.value_type == query_pb2.VALUE_TYPE_FLOAT:
            return float(text)
    except ValueError as error:
        expected = "a whole number" if feature.value_type == query_pb2.VALUE_TYPE_INT else "a number"
        raise InvalidRequest.in_field("--feature", f"{feature.name!r} takes {expected}, got {text!r}") from error
    return text


def _parse_attribute_value(text: str, value: str, value_type: ann_pb2.AttributeType.ValueType, option: str) -> Value:
    if value_type == ann_pb2.ATTRIBUTE_TYPE_INT:
        try:
            return int(value)
        except ValueError as error:
            raise InvalidRequest.in_field(
                option, f"{text!r}: {value!r} is not a whole number, which the attribute requires"
            ) from error
    return _parse_number(text, value, option) if value_type == ann_pb2.ATTRIBUTE_TYPE_FLOAT else value


def _parse_bound(text: str, value: str, option: str) -> float:
    """Returns the bound of a range, whole numbers exact."""
    return int(value) if re.fullmatch(r"[+-]?\d{1,20}", value) else _parse_number(text, value, option)


def _parse_number(text: str, value: str, option: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InvalidRequest.in_field(option, f"{text!r}: {value!r} is not a number") from error
