"""The kind ``text``: a text encoder turns a string into a vector, which is an input of a tower.

```
"wireless mouse" ─► tokenizer.json ─► token ids [n, length] ─► encoder.tflite ─► [n, width], unit length ─► tower
```

| text                                           | vector                                                       |
|------------------------------------------------|--------------------------------------------------------------|
| missing, empty, blanks or control characters   | zeros, the same as for a feature that was not sent           |
| longer than ``max_tokens``                     | vector of its first tokens                                   |
| the name of a special token, such as ``[SEP]`` | vector of ordinary text: no caller can end a text early      |
| any script, accents, emoji                     | as the checkpoint's tokenizer splits it; [UNK] if unknown    |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from retrieval.bundle.layout import TEXT_ENCODER, TEXT_ENCODERS, TOKENIZER

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


@dataclass(frozen=True)
class TextEncoderSpec:
    """Description of a text encoder; its tokenizer and weights are files of their own.

    Attributes:
        name: Name of its folder in the bundle.
        checkpoint: Name of the checkpoint that it was made from; for people to read.
        width: Length of its vectors.
        max_tokens: Number of tokens of a text that are read, special tokens included.
        pad_id: Token id that texts are padded with.
        kind: ``transformer``, or ``static``: the mean of one vector for each token.
        precision: Precision of the served weights, ``float32`` or ``int8``.
    """

    name: str
    checkpoint: str
    width: int
    max_tokens: int
    pad_id: int
    kind: Literal["transformer", "static"] = "transformer"
    precision: Literal["float32", "int8"] = "float32"

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or the name is not safe as the name of a folder.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"text encoder {self.name[:80]!r}: a name consists of lower case letters, digits, - and _")
        if self.width < 1 or not 3 <= self.max_tokens <= 8192 or self.pad_id < 0:
            raise ValueError(
                f"text encoder {self.name}: width {self.width}, max_tokens {self.max_tokens}, pad_id {self.pad_id}; "
                "expected at least 1, 3 to 8192, and at least 0"
            )

    @property
    def tokenizer_path(self) -> str:
        """Path of its tokenizer in the bundle."""
        return f"{TEXT_ENCODERS}/{self.name}/{TOKENIZER}"

    @property
    def encoder_path(self) -> str:
        """Path of its LiteRT file in the bundle."""
        return f"{TEXT_ENCODERS}/{self.name}/{TEXT_ENCODER}"


@dataclass(frozen=True)
class Text:
    """A feature that holds free text.

    Attributes:
        name: Name of the feature.
        encoder: Name of its text encoder; features may share one.
        width: Length of the vectors of that encoder.
        description: Meaning of the feature, for callers.
    """

    kind: ClassVar = "text"
    max_values: ClassVar = 1
    vocabulary: ClassVar = ""
    hash_buckets: ClassVar = 0
    name: str
    encoder: str
    width: int
    value_type: Literal["string", "int", "float"] = "string"
    description: str = ""

    def __post_init__(self) -> None:
        """Checks that the fields are valid.

        Raises:
            ValueError: a field is out of range, or fields contradict each other.
        """
        if self.value_type != "string" or self.width < 1:
            raise ValueError(
                f"feature {self.name}: value type {self.value_type!r} and width {self.width}; a text is a string, and "
                "its width at least 1"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model input of one row."""
        return (self.width,)


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def spec(self) -> TextEncoderSpec:
        """Description of the encoder."""
        ...

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns the vectors of [n] texts: [n, width] float32, unit length, zeros where there is no text."""
        ...


@dataclass(frozen=True)
class TextEncoders:
    """Text encoders that give the inputs of text features, which a `FeatureSchema` cannot compute.

    Attributes:
        encoders: Text encoders; the names in their specs are distinct. Default: none, for towers that read no text.
    """

    encoders: tuple[TextEncoder, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, TextEncoder]:
        """Text encoders by the names in their specs."""
        return {encoder.spec.name: encoder for encoder in self.encoders}

    def encode(self, features: Iterable[Text], columns: Mapping[str, Sequence[Any]], row_count: int) -> dict[str, Any]:
        """Returns the inputs of text features by name, each [row_count, width] float32.

        Args:
            features: text features.
            columns: raw texts by feature name, each [row_count]; a feature without a column is missing in every row.
            row_count: number of rows.

        Raises:
            ValueError: a feature's text encoder is not among these.
        """
        inputs: dict[str, np.ndarray] = {}
        for feature in features:
            encoder = self.by_name.get(feature.encoder)
            if encoder is None:
                raise ValueError(
                    f"feature {feature.name} needs the text encoder {feature.encoder!r}; there are "
                    f"{', '.join(self.by_name) or 'none'}"
                )
            inputs[feature.name] = encoder.embed(columns.get(feature.name, [None] * row_count))
        return inputs
