"""The feature schema: raw features to model inputs, by one encoder that training and serving share.

`retrieval.bundle.features.kinds` has a table of raw values and model inputs by kind. The table of
`retrieval.bundle.features.event_kinds` is about the events of a history. A schema does not encode texts:
`retrieval.bundle.features.text.TextEncoders` does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from retrieval.bundle.features.event_kinds import (
    REQUEST_TIME,
    EventValue,
    HistoryCategorical,
    HistoryNumeric,
    HistoryTimes,
    RequestTime,
)
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.single_row import row_encoder
from retrieval.bundle.features.text import Text, TextEncoders, TextEncoderSpec
from retrieval.bundle.features.vocabulary import OUT_OF_VOCABULARY, Hashing, Vocabulary
from retrieval.bundle.layout import VOCABULARIES

InputFeature = (
    Categorical | MultiCategorical | History | Numeric | Text | HistoryCategorical | HistoryNumeric | HistoryTimes
)
Feature = InputFeature | RequestTime
KINDS: Mapping[str, type[Feature]] = {k.kind: k for k in get_args(Feature)}
Columns = Mapping[str, Sequence[Any]]
"""Raw values by feature name, each [row_count]."""


@dataclass(frozen=True)
class FeatureSchema:
    """The features of a tower, and the vocabularies that they share.

    Attributes:
        features: Features in the order of the recipe; their names are distinct.
        vocabularies: Vocabularies by name.
        text_encoder_specs: Specs of the text encoders that its text features need, by name.
    """

    features: tuple[Feature, ...]
    vocabularies: Mapping[str, Vocabulary]
    text_encoder_specs: Mapping[str, TextEncoderSpec] = field(default_factory=dict[str, TextEncoderSpec])

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            ValueError: a name is duplicated, or a vocabulary or text encoder is missing or of the wrong type.
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
                spec = self.text_encoder_specs.get(feature.encoder)
                if spec is None or spec.width != feature.width:
                    given = "there is none" if spec is None else f"it makes {spec.width}"
                    raise ValueError(
                        f"feature {feature.name}: text encoder {feature.encoder!r} of width {feature.width}: {given}"
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
        """Features by name."""
        return {feature.name: feature for feature in self.features}

    @property
    def inputs(self) -> tuple[InputFeature, ...]:
        """Features that are an input of the model: all but `RequestTime`, which `HistoryTimes` reads."""
        return tuple(feature for feature in self.features if not isinstance(feature, RequestTime))

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """Text features."""
        return tuple(feature for feature in self.features if isinstance(feature, Text))

    def slots(self, feature: Feature) -> Vocabulary | Hashing:
        """Returns the vocabulary or the hashing that maps the values of a categorical feature to slots."""
        return self.vocabularies[feature.vocabulary] if feature.vocabulary else Hashing(feature.hash_buckets)

    def event_values(self, history: str) -> tuple[EventValue, ...]:
        """Returns the features that describe the events of a history."""
        return tuple(f for f in self.features if isinstance(f, EventValue) and f.history == history)

    def subset(self, names: Container[str]) -> FeatureSchema:
        """Returns the schema of the named features alone."""
        return dataclasses.replace(self, features=tuple(f for f in self.features if f.name in names))

    def encode(self, columns: Columns, row_count: int) -> dict[str, np.ndarray]:
        """Returns the inputs of all features but texts, by feature name, each [row_count, ...]. They are read-only.

        Args:
            columns: raw values by feature name, each [row_count]. A feature without a column is missing in every row.
                Texts are ignored. The caller has checked that values have the feature's type, and that lists that
                describe the events of a history are as long as the history.
            row_count: number of rows.

        Raises:
            KeyError: the schema has no feature of a column's name.
        """
        if not columns.keys() <= self.by_name.keys():
            raise KeyError(f"no feature reads {sorted(columns.keys() - self.by_name.keys())}")
        absent = [None] * row_count
        if row_count == 1:
            inputs = {**self._absent_row}
            for name, column in columns.items():
                if encode_row := self._row_encoders.get(name):
                    inputs[name] = encode_row(column[0])
        else:
            inputs = {name: encode(columns.get(name, absent)) for name, encode in self._encoders.items()}
        for name, encode in self._time_encoders.items():
            inputs[name] = encode(columns.get(name, absent), columns.get(REQUEST_TIME, absent))
        return inputs

    def count_unknown(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Returns how many values of each row are in no vocabulary: [row_count] int64; None if all are known.

        Args:
            inputs: what `encode` returned.
        """
        counts: np.ndarray | None = None
        for name in self._with_vocabulary:
            unknown = inputs[name] == OUT_OF_VOCABULARY
            if unknown.any():
                of_rows = unknown.reshape(len(unknown), -1).sum(axis=1)
                counts = of_rows if counts is None else counts + of_rows
        return counts

    @cached_property
    def _with_vocabulary(self) -> tuple[str, ...]:
        """Names of the features whose values are looked up in a vocabulary."""
        return tuple(feature.name for feature in self.inputs if feature.vocabulary)

    @cached_property
    def _encoders(self) -> Mapping[str, Callable[[Sequence[Any]], np.ndarray]]:
        """Functions from a feature's column to its input, by feature; without texts and times."""
        encoders: dict[str, Callable[[Sequence[Any]], np.ndarray]] = {}
        for feature in self.inputs:
            if isinstance(feature, Numeric | HistoryNumeric):
                encoders[feature.name] = feature.encode
            elif not isinstance(feature, Text | HistoryTimes):
                encoders[feature.name] = partial(feature.encode, slots=self.slots(feature))
        return encoders

    @cached_property
    def _row_encoders(self) -> Mapping[str, Callable[[Any], np.ndarray]]:
        """Functions from the value of a single row to its input, by feature; without texts and times."""
        return {
            name: row_encoder(self.by_name[name], self.vocabularies.get(self.by_name[name].vocabulary))
            or (lambda value, encode=encode: encode((value,)))
            for name, encode in self._encoders.items()
        }

    @cached_property
    def _absent_row(self) -> Mapping[str, np.ndarray]:
        """Inputs of a single row in which every feature is missing, by feature; without texts and times."""
        return {name: encode([None]) for name, encode in self._encoders.items()}

    @cached_property
    def _time_encoders(self) -> Mapping[str, Callable[[Sequence[Any], Sequence[Any]], np.ndarray]]:
        """Functions from times of events and times of the requests to an input, by feature."""
        return {feature.name: feature.encode for feature in self.inputs if isinstance(feature, HistoryTimes)}

    def to_json(self) -> dict[str, Any]:
        """Returns the schema for the manifest; vocabularies, tokenizers and weights are files of their own."""
        raw: dict[str, Any] = {"features": [{"kind": f.kind, **dataclasses.asdict(f)} for f in self.features]}
        if used := sorted({feature.encoder for feature in self.texts}):
            raw["text_encoders"] = [dataclasses.asdict(self.text_encoder_specs[name]) for name in used]
        return raw

    @staticmethod
    def from_json(raw: Mapping[str, Any], vocabularies: Mapping[str, Sequence[Any]]) -> FeatureSchema:
        """Returns the schema that `to_json` wrote.

        Args:
            raw: result of `to_json`.
            vocabularies: values by name; may hold more than the features use.

        Raises:
            ValueError: a kind or field is unknown, or a value is out of range.
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
        known = {name: Vocabulary(tuple(vocabularies[name])) for name in sorted(used)}
        return FeatureSchema(tuple(features), known, {spec.name: spec for spec in text_encoder_specs(raw)})


def text_encoder_specs(raw: Mapping[str, Any]) -> list[TextEncoderSpec]:
    """Returns the specs of the text encoders that a schema needs, as `FeatureSchema.to_json` wrote it.

    Raises:
        ValueError: a field is unknown, or a value is out of range.
    """
    try:
        return [TextEncoderSpec(**spec) for spec in raw.get("text_encoders", ())]
    except TypeError as error:
        raise ValueError(f"text encoders {raw['text_encoders']}: {error}") from error


def read_schema(folder: Path, raw: Mapping[str, Any]) -> FeatureSchema:
    """Returns a feature schema of a bundle.

    Args:
        folder: folder of the bundle, whose ``vocabularies.json`` is verified.
        raw: schema in the manifest.

    Raises:
        OSError, ValueError: the vocabularies cannot be read, or schema and vocabularies do not fit together.
    """
    return FeatureSchema.from_json(raw, json.loads((folder / VOCABULARIES).read_text(encoding="utf-8")))


def encode_inputs(
    schema: FeatureSchema, text_encoders: TextEncoders, columns: Columns, row_count: int
) -> dict[str, np.ndarray]:
    """Returns every input of a tower by feature name, each [row_count, ...]: text vectors included.

    Args:
        schema: features of the tower.
        text_encoders: text encoders that its text features need.
        columns: raw values by feature name, as `FeatureSchema.encode` takes them.
        row_count: number of rows.

    Raises:
        KeyError: the schema has no feature of a column's name.
        ValueError: a text encoder is missing.
    """
    inputs = schema.encode(columns, row_count)
    return inputs | text_encoders.encode(schema.texts, columns, row_count) if schema.texts else inputs
