"""The kinds of features that describe the events of a history: ratings, types, dwell, times.

Each feature is one list, parallel to the ids of the history.

| kind                | raw value of one row                 | model input                                             |
|---------------------|--------------------------------------|---------------------------------------------------------|
| history_categorical | a list of strings or ints            | [batch, max_values] int32 slots                         |
| history_numeric     | a list of numbers                    | [batch, max_values, 2] float32: (value - mean) / std,   |
|                     |                                      | 1 if present                                            |
| history_times       | a list of times, seconds since 1970  | [batch, max_values, 4] float32: log2(1 + age), 1 if     |
|                     |                                      | present, log2(1 + gap), 1 if present                    |
| request_time        | a time, seconds since 1970           | none: `history_times` reads it                          |

Lists are oldest first, like the ids, with one value for each id; inputs are newest first, right-padded. The age of an
event is the time from the event to the request; its gap is the time from the event before it; both are in seconds and
at least 0. A missing value is None, an empty string, NaN or -2^63: slot 0, or (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from retrieval.bundle.features.slots import check_max_values, check_slots, pad, pad_numbers
from retrieval.bundle.features.standardisation import check_scale, standardise, with_presence
from retrieval.bundle.features.vocabulary import Hashing, Vocabulary

MISSING_INT = -(2**63)
"""Int that means a missing value in a list on the wire."""
REQUEST_TIME = "request_time"
"""Name of the feature whose value is the time of the request."""
TIME = "time"
"""Second part of the name of a list of times; see `value_name`."""


def value_name(history: str, value: str) -> str:
    """Returns the name of the feature that describes the events of a history, for instance ``history.rating``."""
    return f"{history}.{value}"


@dataclass(frozen=True)
class HistoryCategorical:
    """One value for each event, from a vocabulary or hashed.

    Attributes:
        name: Name of the feature, as `value_name` makes it.
        history: Name of the history whose events it describes.
        max_values: Number of values that are read: the newest ones, as many as the history reads.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: Name of its vocabulary. Empty: the values are hashed.
        hash_buckets: Number of hash buckets; 0 for a feature with a vocabulary.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "history_categorical"
    name: str
    history: str
    max_values: int
    value_type: Literal["string", "int", "float"] = "string"
    vocabulary: str = ""
    hash_buckets: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        check_slots(self.name, self.value_type, self.vocabulary, self.hash_buckets)
        check_max_values(self.name, self.max_values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model input of one row."""
        return (self.max_values,)

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns the model input of a column of raw lists: [batch, max_values] int32 slots, newest first."""
        return pad([_missing_as_none(row) for row in _newest(column, self.max_values)], slots, self.max_values)

    def encode_events(self, values: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns the slots of single events: [n] int32."""
        return slots.lookup(_missing_as_none(values))


@dataclass(frozen=True)
class HistoryNumeric:
    """One number for each event, standardised with the mean and standard deviation of the training data.

    Attributes:
        name: Name of the feature, as `value_name` makes it.
        history: Name of the history whose events it describes.
        max_values: Number of values that are read: the newest ones, as many as the history reads.
        mean: Mean of the training values, after the logarithm if there is one.
        std: Standard deviation of the training values, after the logarithm if there is one; above 0.
        log: Whether log(1 + value) is standardised, with values below 0 read as 0. For durations and amounts.
        value_type: ``"float"``.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "history_numeric"
    vocabulary: ClassVar = ""
    hash_buckets: ClassVar = 0
    name: str
    history: str
    max_values: int
    mean: float
    std: float
    log: bool = False
    value_type: Literal["string", "int", "float"] = "float"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        check_max_values(self.name, self.max_values)
        check_scale(self.name, self.mean, self.std)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one row: for each event the standardised value, and whether it is present."""
        return (self.max_values, 2)

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Returns the model input of a column of raw lists: [batch, max_values, 2] float32, newest first."""
        return self._standardise(pad_numbers(_newest(column, self.max_values), self.max_values))

    def encode_events(self, values: Sequence[Any]) -> np.ndarray:
        """Returns the inputs of single events: [n, 2] float32."""
        return self._standardise(np.array(values, dtype=np.float64))

    def _standardise(self, values: np.ndarray) -> np.ndarray:
        """Returns standardised values and presence: [..., 2] float32 for [...] float64, NaN where missing."""
        values = _nan_where_missing(values)
        if self.log:
            values = np.log1p(np.maximum(values, 0.0))
        return standardise(values, self.mean, self.std)


@dataclass(frozen=True)
class HistoryTimes:
    """The time of each event, from which its age and its gap are computed.

    Attributes:
        name: Name of the feature, as `value_name` makes it.
        history: Name of the history whose events it describes.
        max_values: Number of times that are read: the newest ones, as many as the history reads. One more time is read
            for the gap of the oldest.
        value_type: ``"float"``.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "history_times"
    vocabulary: ClassVar = ""
    hash_buckets: ClassVar = 0
    name: str
    history: str
    max_values: int
    value_type: Literal["string", "int", "float"] = "float"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        check_max_values(self.name, self.max_values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one row: for each event age, presence of the age, gap, presence of the gap."""
        return (self.max_values, 4)

    def encode(self, column: Sequence[Any], request_times: Sequence[Any]) -> np.ndarray:
        """Returns the model input of a column of lists of times: [batch, max_values, 4] float32, newest first.

        Args:
            column: [batch] lists of seconds since 1970.
            request_times: [batch] seconds since 1970; where missing, the time of the newest event.
        """
        times = _nan_where_missing(pad_numbers(_newest(column, self.max_values + 1), self.max_values + 1))
        requests = _nan_where_missing(np.array(request_times, dtype=np.float64))  # [batch]
        newest = np.max(np.where(np.isnan(times), -np.inf, times), axis=1)  # [batch]
        requests = np.where(np.isnan(requests), newest, requests)
        gaps = encode_spans(times[:, :-1] - times[:, 1:])
        return np.concatenate([encode_spans(requests[:, None] - times[:, :-1]), gaps], axis=-1)


@dataclass(frozen=True)
class RequestTime:
    """The time of the request in seconds since 1970. Ages of events are relative to it.

    Attributes:
        name: Always `REQUEST_TIME`.
        value_type: ``"float"``.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "request_time"
    max_values: ClassVar = 1
    vocabulary: ClassVar = ""
    hash_buckets: ClassVar = 0
    name: str = REQUEST_TIME
    value_type: Literal["string", "int", "float"] = "float"
    description: str = ""


EventValue = HistoryCategorical | HistoryNumeric | HistoryTimes


def encode_spans(seconds: np.ndarray) -> np.ndarray:
    """Returns log2(1 + seconds), at least 0, and presence: [..., 2] float32 for [...] float64, NaN where missing."""
    return with_presence(np.log2(1.0 + np.maximum(seconds, 0.0)))


def _newest(column: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Returns the last `count` values of each row, or all where there are fewer, in reverse order."""
    return [(values or ())[: -count - 1 : -1] for values in column]


def _missing_as_none(values: Sequence[Any]) -> Sequence[Any]:
    """Returns the values, with None in place of empty strings and of `MISSING_INT`, which mark missing values."""
    if "" in values or MISSING_INT in values:
        return [None if value in ("", MISSING_INT) else value for value in values]
    return values


def _nan_where_missing(values: np.ndarray) -> np.ndarray:
    return np.where(values == float(MISSING_INT), np.nan, values)
