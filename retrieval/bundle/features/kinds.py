"""The kinds of features that describe a row by itself: their fields, and how raw values become model inputs.

| kind              | raw value of one row          | model input                                              |
|-------------------|-------------------------------|----------------------------------------------------------|
| categorical       | a string or an int            | [batch] int32 slot                                       |
| multi_categorical | a list of strings or ints, in | [batch, max_values] int32 slots of the first values,     |
|                   | any order                     | right-padded                                             |
| history           | a list of item ids, oldest    | [batch, max_values] int32 slots, newest first,           |
|                   | first                         | right-padded                                             |
| numeric           | a number                      | [batch, 2] float32: (value - mean) / std, 1 if present   |

A missing value is None, an empty string or an empty list: slot 0, and (0, 0) for a number. Tables mean the same by an
empty cell.

`retrieval.bundle.features.text` has the kind ``text``, and `retrieval.bundle.features.event_kinds` has the kinds that
describe the events of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from retrieval.bundle.features.slots import check_max_values, check_slots, pad
from retrieval.bundle.features.standardisation import check_scale, standardise
from retrieval.bundle.features.vocabulary import Hashing, Vocabulary

ValueType = Literal["string", "int", "float"]


@dataclass(frozen=True)
class Categorical:
    """One value, from a vocabulary or hashed.

    Attributes:
        name: Name of the feature.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: Name of its vocabulary; features may share one. Empty: the values are hashed.
        hash_buckets: Number of hash buckets; 0 for a feature with a vocabulary.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "categorical"
    max_values: ClassVar = 1
    name: str
    value_type: ValueType = "string"
    vocabulary: str = ""
    hash_buckets: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        """Checks vocabulary, hash buckets and value type; see `retrieval.bundle.features.slots.check_slots`.

        Raises:
            ValueError: there is neither a vocabulary nor hash buckets, or both, or the type is neither string nor int.
        """
        check_slots(self.name, self.value_type, self.vocabulary, self.hash_buckets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model input of one row."""
        return ()

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns the model input of a column of raw values: [batch] int32 slots."""
        return slots.lookup(column)


@dataclass(frozen=True)
class MultiCategorical:
    """Several values in any order, from a vocabulary or hashed.

    Attributes:
        name: Name of the feature.
        max_values: Number of values that are read, from the first on.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: Name of its vocabulary; features may share one. Empty: the values are hashed.
        hash_buckets: Number of hash buckets; 0 for a feature with a vocabulary.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "multi_categorical"
    name: str
    max_values: int
    value_type: ValueType = "string"
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
        """Returns the model input of a column of raw lists: [batch, max_values] int32 slots, right-padded."""
        return pad([(values or ())[: self.max_values] for values in column], slots, self.max_values)


@dataclass(frozen=True)
class History:
    """The ids of the items that the user interacted with, oldest first.

    Attributes:
        name: Name of the feature.
        max_values: Number of ids that are read: the newest ones, which are the last.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: Name of the vocabulary of items.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "history"
    hash_buckets: ClassVar = 0
    name: str
    max_values: int
    value_type: ValueType = "string"
    vocabulary: str = "items"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        check_slots(self.name, self.value_type, self.vocabulary, 0)
        check_max_values(self.name, self.max_values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model input of one row."""
        return (self.max_values,)

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns the model input of a column of raw lists: [batch, max_values] int32 slots, newest first."""
        return pad([(values or ())[: -self.max_values - 1 : -1] for values in column], slots, self.max_values)


@dataclass(frozen=True)
class Numeric:
    """A number, standardised with the mean and standard deviation of the training data.

    Attributes:
        name: Name of the feature.
        mean: Mean of the training values.
        std: Standard deviation of the training values, above 0.
        value_type: ``"float"``.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "numeric"
    max_values: ClassVar = 1
    vocabulary: ClassVar = ""
    hash_buckets: ClassVar = 0
    name: str
    mean: float
    std: float
    value_type: ValueType = "float"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        check_scale(self.name, self.mean, self.std)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one row: the standardised value, and whether it is present."""
        return (2,)

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Returns the model input of a column of numbers: [batch, 2] float32, value and presence; NaN is missing."""
        return standardise(np.array(column, dtype=np.float64), self.mean, self.std)  # None becomes NaN
