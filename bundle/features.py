"""Raw features to model inputs: the one encoder that training and serving share.

| kind              | raw value of one row          | model input                                              |
|-------------------|-------------------------------|----------------------------------------------------------|
| categorical       | a string or an int            | [batch] int32 slot                                       |
| multi_categorical | a list of them, in no order   | [batch, max_values] int32 slots, the first ones, padded  |
| history           | a list of item ids, oldest    | [batch, max_values] int32 slots, newest first, padded    |
|                   | first                         |                                                          |
| numeric           | a number                      | [batch, 2] float32: (value - mean) / std, 1 if present   |
| text              | a string                      | [batch, width] float32: see `bundle.texts`               |

A missing value is None (or an empty list): slot 0, (0, 0) where numeric, zeros where text. What is known of the events
of a history stands beside it: see `bundle.event_values`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from struct import Struct
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from bundle.event_values import REQUEST_TIME, EventValue, HistoryCategorical, HistoryNumeric, HistoryTimes, RequestTime
from bundle.numbers import EXTREME, check_scale, standardise
from bundle.slots import check_max_values, check_slots, pad
from bundle.texts import OpenTextEncoder, Text, TextEncoder, TextEncoderSpec
from bundle.vocabulary import Hashing, Vocabulary

_pack_pair = Struct("2f").pack

ValueType = Literal["string", "int", "float"]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Categorical:
    """One value out of a vocabulary, or hashed.

    Attributes:
        name: of the feature.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: name of its vocabulary; features may share one. Empty: hashed.
        hash_buckets: slots of a hashed feature; 0 where it has a vocabulary.
        description: for those who send it.
    """

    kind: ClassVar = "categorical"
    max_values: ClassVar = 1
    name: str
    value_type: ValueType = "string"
    vocabulary: str = ""
    hash_buckets: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that there is just one source of slots."""
        check_slots(self.name, self.value_type, self.vocabulary, self.hash_buckets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return ()

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns [batch] int32."""
        return slots.lookup(column)


@dataclass(frozen=True)
class MultiCategorical:
    """Several values out of a vocabulary, or hashed; attributes as of `Categorical`.

    Attributes:
        max_values: how many count: the first ones.
    """

    kind: ClassVar = "multi_categorical"
    name: str
    max_values: int
    value_type: ValueType = "string"
    vocabulary: str = ""
    hash_buckets: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_slots(self.name, self.value_type, self.vocabulary, self.hash_buckets)
        check_max_values(self.name, self.max_values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return (self.max_values,)

    @property
    def cut(self) -> slice:
        """Which of the values count."""
        return slice(self.max_values)

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns [batch, max_values] int32."""
        return pad([(values or ())[self.cut] for values in column], slots, self.max_values)


@dataclass(frozen=True)
class History:
    """The ids of the items that the user met before, oldest first.

    Attributes:
        name: of the feature.
        max_values: how many count: the newest ones, that is the last.
        value_type: ``"string"`` or ``"int"``.
        vocabulary: name of the vocabulary of items.
        description: for those who send it.
    """

    kind: ClassVar = "history"
    hash_buckets: ClassVar = 0
    name: str
    max_values: int
    value_type: ValueType = "string"
    vocabulary: str = "items"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_slots(self.name, self.value_type, self.vocabulary, 0)
        check_max_values(self.name, self.max_values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return (self.max_values,)

    @property
    def cut(self) -> slice:
        """Which of the values count, newest first."""
        return slice(None, -self.max_values - 1, -1)

    def encode(self, column: Sequence[Any], slots: Vocabulary | Hashing) -> np.ndarray:
        """Returns [batch, max_values] int32, newest first."""
        return pad([(values or ())[self.cut] for values in column], slots, self.max_values)


@dataclass(frozen=True)
class Numeric:
    """A number, standardised with the mean and standard deviation of the training data.

    Attributes:
        name: of the feature.
        mean: of the training values.
        std: of the training values, above 0.
        value_type: ``"float"``.
        description: for those who send it.
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
        """Checks ranges."""
        check_scale(self.name, self.mean, self.std)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row: standardised value, presence."""
        return (2,)

    def encode(self, column: Sequence[Any]) -> np.ndarray:
        """Returns [batch, 2] float32; NaN counts as missing."""
        if len(column) == 1:
            return self.encode_one(column[0])
        return standardise(np.array(column, dtype=np.float64), self.mean, self.std)  # None becomes NaN

    def encode_one(self, value: float | None) -> np.ndarray:
        """Returns [1, 2] float32: what `encode` returns of one value, in a fraction of the time."""
        if value is None or math.isnan(value):
            return np.zeros((1, 2), dtype=np.float32)
        standard = min(max((value - self.mean) / self.std, -EXTREME), EXTREME)
        return np.ndarray((1, 2), np.float32, _pack_pair(standard, 1.0))


InputFeature = (
    Categorical | MultiCategorical | History | Numeric | Text | HistoryCategorical | HistoryNumeric | HistoryTimes
)
Feature = InputFeature | RequestTime
KINDS: Mapping[str, type[Feature]] = {k.kind: k for k in get_args(Feature)}


@dataclass(frozen=True)
class FeatureSchema:
    """The inputs of a tower, and the vocabularies that they share.

    Attributes:
        features: in the order of the recipe, names distinct.
        vocabularies: by name.
        encoders: of texts, by name.
    """

    features: tuple[Feature, ...]
    vocabularies: Mapping[str, Vocabulary]
    encoders: Mapping[str, TextEncoder] = field(default_factory=dict[str, TextEncoder])

    def __post_init__(self) -> None:
        """Checks names.

        Raises:
            ValueError: a name stands twice, or a vocabulary or text encoder is missing or of the wrong type.
        """
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise ValueError(f"feature names {names} are not distinct")
        histories = {feature.name: feature.max_values for feature in self.features if isinstance(feature, History)}
        for feature in self.features:
            if isinstance(feature, EventValue) and histories.get(feature.history) != feature.max_values:
                raise ValueError(
                    f"feature {feature.name}: {feature.max_values} values of the events of {feature.history!r}, "
                    f"expected a history of as many; there are {histories}"
                )
            if isinstance(feature, Text):
                encoder = self.encoders.get(feature.encoder)
                if encoder is None or encoder.spec.width != feature.width:
                    found = "there is none" if encoder is None else f"it makes {encoder.spec.width}"
                    raise ValueError(
                        f"feature {feature.name}: text encoder {feature.encoder!r} of width {feature.width}: {found}"
                    )
            if not feature.vocabulary:
                continue
            if feature.vocabulary not in self.vocabularies:
                raise ValueError(f"feature {feature.name}: no vocabulary {feature.vocabulary!r}")
            values = self.vocabularies[feature.vocabulary].values
            if values and isinstance(values[0], int) != (feature.value_type == "int"):
                raise ValueError(f"feature {feature.name} is of {feature.value_type}s, its vocabulary is not")

    @cached_property
    def by_name(self) -> Mapping[str, Feature]:
        """The features by name."""
        return {feature.name: feature for feature in self.features}

    def slots(self, feature: Feature) -> Vocabulary | Hashing:
        """Returns what gives the values of a categorical feature their slots."""
        return self.vocabularies[feature.vocabulary] if feature.vocabulary else Hashing(feature.hash_buckets)

    @property
    def inputs(self) -> tuple[InputFeature, ...]:
        """The features that are an input of the model: all but `RequestTime`, which another one reads."""
        return tuple(feature for feature in self.features if not isinstance(feature, RequestTime))

    def event_values(self, history: str) -> tuple[EventValue, ...]:
        """Returns what is known of the events of a history."""
        return tuple(f for f in self.features if isinstance(f, EventValue) and f.history == history)

    def subset(self, names: Container[str]) -> FeatureSchema:
        """Returns the schema of some of the features."""
        return FeatureSchema(tuple(f for f in self.features if f.name in names), self.vocabularies, self.encoders)

    def encode(self, columns: Columns, row_count: int) -> dict[str, np.ndarray]:
        """Returns the model inputs of `row_count` rows; not to be written to.

        Args:
            columns: raw values by feature name, each [row_count]; see the table on top. A feature without a column is
                missing in every row. Values have to be of the feature's type, and of each event where they are of the
                events of a history: the caller checks that.
            row_count: rows.

        Raises:
            KeyError: a column that no feature reads.
        """
        if not columns.keys() <= self.by_name.keys():
            raise KeyError(f"no feature reads {sorted(columns.keys() - self.by_name.keys())}")
        absent = [None] * row_count
        inputs = {name: encode(columns.get(name, absent)) for name, encode in self._encode_inputs.items()}
        for name, encode in self._encode_times.items():
            inputs[name] = encode(columns.get(name, absent), columns.get(REQUEST_TIME, absent))
        return inputs

    @cached_property
    def row_encoders(self) -> Mapping[str, Callable[[Any], np.ndarray]]:
        """What makes the input of each feature, [1, ...], out of its value in a lone row; not to be written to.

        A value is a list, or of a scalar one value or None. Empty where a feature takes other values than its own to
        encode or to check.
        """
        if any(isinstance(feature, EventValue | RequestTime) for feature in self.features):
            return {}
        return {feature.name: self._row_encoder(feature) for feature in self.inputs}

    def _row_encoder(self, feature: InputFeature) -> Callable[[Any], np.ndarray]:
        """Returns one function where that can be: for one value, each call within takes as long as what it does."""
        if feature.vocabulary and isinstance(feature, Categorical):
            return self.vocabularies[feature.vocabulary].value_encoder()
        if feature.vocabulary and isinstance(feature, MultiCategorical | History):
            return self.vocabularies[feature.vocabulary].list_encoder(feature.cut, feature.max_values)
        if isinstance(feature, Numeric):
            return feature.encode_one
        encode = self._encode_inputs[feature.name]
        return lambda value: encode((value,))

    @cached_property
    def _encode_inputs(self) -> Mapping[str, Callable[[Sequence[Any]], np.ndarray]]:
        """What makes inputs of the columns of features; without those of `_encode_times`."""
        found: dict[str, Callable[[Sequence[Any]], np.ndarray]] = {}
        for feature in self.inputs:
            if isinstance(feature, Text):
                found[feature.name] = self.encoders[feature.encoder].embed
            elif isinstance(feature, Numeric | HistoryNumeric):
                found[feature.name] = feature.encode
            elif isinstance(feature, Categorical):
                found[feature.name] = self.slots(feature).lookup
            elif not isinstance(feature, HistoryTimes):
                found[feature.name] = partial(feature.encode, slots=self.slots(feature))
        return found

    @cached_property
    def _encode_times(self) -> Mapping[str, Callable[[Sequence[Any], Sequence[Any]], np.ndarray]]:
        """What makes inputs of times of events and of those of the requests."""
        return {feature.name: feature.encode for feature in self.inputs if isinstance(feature, HistoryTimes)}

    def to_json(self) -> dict[str, Any]:
        """Returns the features, for the manifest; vocabularies, tokenizers and weights are files of their own."""
        raw: dict[str, Any] = {"features": [{"kind": f.kind, **dataclasses.asdict(f)} for f in self.features]}
        if specs := self.encoder_specs:
            raw["text_encoders"] = [dataclasses.asdict(spec) for spec in specs]
        return raw

    @property
    def encoder_specs(self) -> list[TextEncoderSpec]:
        """Of the text encoders that its features use, by name."""
        return [self.encoders[n].spec for n in sorted({f.encoder for f in self.features if isinstance(f, Text)})]

    @staticmethod
    def from_json(
        raw: Mapping[str, Any],
        vocabularies: Mapping[str, Sequence[Any]],
        open_encoder: OpenTextEncoder | None = None,
    ) -> FeatureSchema:
        """Returns the schema that `to_json` wrote.

        Args:
            raw: what it wrote.
            vocabularies: values by name; may hold more than the features use.
            open_encoder: gives a text encoder. Default: a schema with text features is an error.

        Raises:
            ValueError: an unknown kind or field, or a bad value.
        """
        features: list[Feature] = []
        for entry in raw["features"]:
            fields = dict(entry)
            kind = fields.pop("kind", None)
            if kind not in KINDS:
                raise ValueError(f"feature kind {kind!r} is unknown; a newer program wrote this bundle")
            try:
                features.append(KINDS[kind](**fields))
            except TypeError as error:
                raise ValueError(f"feature {entry}: {error}") from error
        used = {feature.vocabulary for feature in features if feature.vocabulary}
        absent = sorted(used - vocabularies.keys())
        if absent:
            raise ValueError(f"no vocabulary {', '.join(absent)}")
        specs = text_encoder_specs(raw)
        if specs and open_encoder is None:
            raise ValueError("the features read text, which needs a text encoder")
        encoders = {spec.name: open_encoder(spec) for spec in specs} if open_encoder else {}
        known = {name: Vocabulary(tuple(vocabularies[name])) for name in sorted(used)}
        return FeatureSchema(tuple(features), known, encoders)


def text_encoder_specs(raw: Mapping[str, Any]) -> list[TextEncoderSpec]:
    """Returns the text encoders that a schema names, as `FeatureSchema.to_json` wrote it.

    Raises:
        ValueError: an unknown field or a bad value.
    """
    try:
        return [TextEncoderSpec(**spec) for spec in raw.get("text_encoders", ())]
    except TypeError as error:
        raise ValueError(f"text encoders {raw['text_encoders']}: {error}") from error
