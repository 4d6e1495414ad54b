"""Adds stored features to those that a query carries. What the query carries wins, feature by feature.

| feature                             | source                                                                       |
|-------------------------------------|------------------------------------------------------------------------------|
| kind history                        | items of the stored events                                                   |
| describes the events of a history   | the value of each event of this name; otherwise its time, type or weight     |
| time of the request                 | never stored                                                                 |
| any other                           | stored profile                                                               |

If the query carries a history, the features that describe its events are not looked up either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from query_tower_service.requests import MAX_CHARACTERS, MAX_VALUES
from retrieval.bundle.features.event_kinds import MISSING_INT, EventValue, HistoryTimes
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import Feature, FeatureSchema
from retrieval.bundle.features.text import Text
from retrieval.live_features.records import StoredEvent, StoredUser, text_fault

Row = dict[str, Any]
"""Parsed values of a query by feature name; see `query_tower_service.requests.QueryParser.parse_rows`."""

_INTS = range(-(2**63), 2**63)
_MISSING: Mapping[str, Any] = {"string": "", "int": MISSING_INT, "float": math.nan}
"""Value of an event that has none, by type, as on the wire."""


class Merger:
    """Adds stored features to the queries of one model. Safe for several threads.

    Attributes:
        newest: Largest number of events of a user that the model reads.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        """Takes the schema of the model."""
        self._histories = [feature for feature in schema.features if isinstance(feature, History)]
        self._event_values = {history.name: schema.event_values(history.name) for history in self._histories}
        self._profile = {
            feature.name: feature
            for feature in schema.features
            if isinstance(feature, Categorical | MultiCategorical | Numeric | Text)
        }
        # Of one event more than the model reads, the time is read: for the gap of the oldest.
        self.newest = max((history.max_values + 1 for history in self._histories), default=0)

    def add(self, row: Row, user: StoredUser, count_wrong: Callable[[], None]) -> Row:
        """Adds stored features to a query, and returns those that were added.

        Args:
            row: parsed values of the query; it is changed.
            user: what is stored of the user.
            count_wrong: called for each stored value that is of another type than the model reads.
        """
        added: Row = {}
        for history in self._histories:
            if history.name in row or not user.events:
                continue
            events = user.events[-history.max_values - 1 :]
            added[history.name] = _item_ids(events, history.value_type)
            for feature in self._event_values[history.name]:
                added[feature.name] = _values_of_events(events, feature, count_wrong)
        for name, values in user.profile.items():
            feature = self._profile.get(name)
            if feature is not None and name not in row:
                added[name] = _profile_value(values, feature, count_wrong)
        row |= added
        return added

    def item_ids(self, row: Row, user: StoredUser | None) -> list[str]:
        """Returns the history of a query: the items that it carries, and those that are stored if it carries none.

        Args:
            row: parsed values of the query, without stored features.
            user: what is stored of the user; None if nothing is.
        """
        carried = [history.name for history in self._histories if history.name in row]
        item_ids = [str(item_id) for name in carried for item_id in row[name] or ()]
        if user is not None and (not self._histories or len(carried) < len(self._histories)):
            item_ids = [event.item_id for event in user.events] + item_ids
        return item_ids


def _item_ids(events: Sequence[StoredEvent], value_type: str) -> list[Any]:
    ids = [event.item_id for event in events]
    return [_to_int(item_id) for item_id in ids] if value_type == "int" else ids


def _to_int(item_id: str) -> int:
    """Returns an item id as an int; an int that no catalogue has if it is none."""
    try:
        number = int(item_id) if item_id.isascii() and len(item_id) <= 20 else MISSING_INT
    except ValueError:
        return MISSING_INT
    return number if str(number) == item_id and number in _INTS else MISSING_INT


def _values_of_events(events: Sequence[StoredEvent], feature: EventValue, count_wrong: Callable[[], None]) -> list[Any]:
    if isinstance(feature, HistoryTimes):
        return [float(event.time_s) for event in events]
    part = feature.name.removeprefix(f"{feature.history}.")
    of_event: Callable[[StoredEvent], Any] = lambda event: None  # noqa: E731
    if part == "type":
        of_event = lambda event: event.type  # noqa: E731
    elif part == "weight":
        of_event = lambda event: event.weight  # noqa: E731
    missing = _MISSING[feature.value_type]
    values: list[Any] = []
    for event in events:
        value = event.values[part] if part in event.values else of_event(event)
        if value is None:
            values.append(missing)
        elif _is_of_type(value, feature.value_type):
            values.append(value)
        else:
            count_wrong()
            values.append(missing)
    return values


def _profile_value(values: Sequence[Any], feature: Feature, count_wrong: Callable[[], None]) -> Any:
    """Returns the value of a feature as a query would carry it; None if it is missing or of another type."""
    if len(values) <= MAX_VALUES and all(_is_of_type(value, feature.value_type) for value in values):
        if isinstance(feature, MultiCategorical):
            return values
        if len(values) <= 1:
            return values[0] if values else None
    count_wrong()
    return None


def _is_of_type(value: Any, value_type: str) -> bool:
    if value_type == "string":
        return isinstance(value, str) and len(value) <= MAX_CHARACTERS and not text_fault(value)
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value in _INTS
    return value_type == "float" and isinstance(value, float) and math.isfinite(value)
