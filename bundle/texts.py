"""The text kind: what a text encoder makes of a string is the input of a tower.

```
"wireless mouse" ─► tokenizer.json ─► token ids [n, length] ─► encoder.tflite ─► [n, width], unit length ─► tower
```

| text                                           | what becomes of it                                           |
|------------------------------------------------|--------------------------------------------------------------|
| missing, empty, blanks or control characters   | zeros, as where the feature was not sent                     |
| longer than ``max_tokens``                     | its first tokens count                                       |
| the name of a special token, such as ``[SEP]`` | ordinary text: no caller can end a text early                |
| any script, accents, emoji                     | as the checkpoint's tokenizer says: [UNK] for what it lacks  |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

TEXT_ENCODERS = "text_encoders"
"""Folder of a bundle with a folder for each text encoder."""
TOKENIZER, ENCODER = "tokenizer.json", "encoder.tflite"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


@dataclass(frozen=True)
class TextEncoderSpec:
    """What a text encoder is; its tokenizer and weights are files of their own.

    Attributes:
        name: of its folder.
        checkpoint: that it was made of, for people.
        width: length of what it makes of a text.
        max_tokens: of a text that count, with the special ones.
        pad_id: token id behind the end of a text.
        kind: ``transformer``, or ``static``: the mean of a vector for each token.
        precision: of the served weights, ``float32`` or ``int8``.
    """

    name: str
    checkpoint: str
    width: int
    max_tokens: int
    pad_id: int
    kind: Literal["transformer", "static"] = "transformer"
    precision: Literal["float32", "int8"] = "float32"

    def __post_init__(self) -> None:
        """Checks ranges; the name has to be safe as that of a folder."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"text encoder {self.name[:80]!r}: a name has small letters, digits, - and _ alone")
        if self.width < 1 or not 3 <= self.max_tokens <= 8192 or self.pad_id < 0:
            raise ValueError(
                f"text encoder {self.name}: width {self.width}, max_tokens {self.max_tokens}, pad_id {self.pad_id}; "
                "expected at least 1, 3 to 8192, and at least 0"
            )

    @property
    def tokenizer_path(self) -> str:
        """Of its tokenizer, in the bundle."""
        return f"{TEXT_ENCODERS}/{self.name}/{TOKENIZER}"

    @property
    def encoder_path(self) -> str:
        """Of its LiteRT file, in the bundle."""
        return f"{TEXT_ENCODERS}/{self.name}/{ENCODER}"


class TextEncoder(Protocol):
    """Turns texts into vectors. Safe for several threads where it serves."""

    @property
    def spec(self) -> TextEncoderSpec:
        """What it is."""
        ...

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, width] float32 of [n] texts: unit length, zeros where there is no text."""
        ...


OpenTextEncoder = Callable[[TextEncoderSpec], TextEncoder]


@dataclass(frozen=True)
class Text:
    """Free text.

    Attributes:
        name: of the feature.
        encoder: name of its text encoder; features may share one.
        width: of that encoder.
        description: for those who send it.
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
        """Checks ranges."""
        if self.value_type != "string" or self.width < 1:
            raise ValueError(
                f"feature {self.name}: value type {self.value_type!r} and width {self.width}; a text is a string, and "
                "its width at least 1"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return (self.width,)


class Tokenizer:
    """Texts to token ids, by a Hugging Face ``tokenizer.json``. Safe for several threads."""

    def __init__(self, json_text: str, max_tokens: int) -> None:
        """Reads the tokenizer.

        Args:
            json_text: content of the file.
            max_tokens: of a text that count, with the special ones.

        Raises:
            ValueError: it is no tokenizer.
        """
        # Here, so that a program without text features needs no such package.
        from tokenizers import Tokenizer as Fast

        try:
            self._fast: Any = Fast.from_str(json_text)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"no tokenizer that this version of tokenizers reads: {error}") from error
        self._fast.no_padding()
        self._fast.enable_truncation(max_tokens)
        self._fast.encode_special_tokens = True  # "[SEP]" in a text is text
        self.special_ids: list[int] = self._fast.encode("").ids
        """What stands around every text: one token before it and one behind."""
        self.vocabulary_size: int = self._fast.get_vocab_size()
        self.json_text = json_text

    @staticmethod
    def read(path: Path, max_tokens: int) -> Tokenizer:
        """Returns the tokenizer in a file, already verified.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        return Tokenizer(path.read_text(encoding="utf-8"), max_tokens)

    def tokenize(self, texts: Sequence[str | None]) -> list[list[int]]:
        """Returns the token ids of each text, none where it holds nothing."""
        return [self._ids(text) if text else [] for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._fast.encode(text).ids
        return ids if len(ids) > len(self.special_ids) else []


def pad(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> np.ndarray:
    """Returns [n, length] int32 of token ids, padded behind.

    Args:
        rows: token ids of each text.
        pad_id: fills up.
        length: of every row. Default: the longest, at least 1.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    width = max(1, int(lengths.max(initial=0))) if length is None else length
    padded = np.full((len(rows), width), pad_id, dtype=np.int32)
    padded[np.arange(width) < lengths[:, None]] = [token for row in rows for token in row]
    return padded
