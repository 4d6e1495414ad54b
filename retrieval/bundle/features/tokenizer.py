"""Tokenization: texts to token ids, and padding of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Tokenizer:
    """A Hugging Face ``tokenizer.json``. Safe for several threads.

    Attributes:
        special_ids: Token ids that surround every text: one before it and one after it.
        vocabulary_size: Number of distinct token ids.
        json_text: Content of ``tokenizer.json``.
    """

    def __init__(self, json_text: str, max_tokens: int) -> None:
        """Parses the tokenizer.

        Args:
            json_text: content of ``tokenizer.json``.
            max_tokens: longest output, special tokens included; the rest of a text is cut off.

        Raises:
            ValueError: the text is not a tokenizer.
        """
        # Imported here, so that programs without text features do not need the package.
        from tokenizers import Tokenizer as Fast

        try:
            self._fast: Any = Fast.from_str(json_text)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"this version of tokenizers cannot read the tokenizer: {error}") from error
        self._fast.no_padding()
        self._fast.enable_truncation(max_tokens)
        self._fast.encode_special_tokens = True  # "[SEP]" in a text is ordinary text
        self.special_ids: list[int] = self._fast.encode("").ids
        self.vocabulary_size: int = self._fast.get_vocab_size()
        self.json_text = json_text

    @staticmethod
    def read(path: Path, max_tokens: int) -> Tokenizer:
        """Returns the tokenizer in a file, already verified.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        return Tokenizer(path.read_text(encoding="utf-8"), max_tokens)

    def tokenize(self, texts: Sequence[str | None]) -> list[list[int]]:
        """Returns the token ids of each text; an empty list for None and for texts without a token of their own."""
        return [self._ids(text) if text else [] for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._fast.encode(text).ids
        return ids if len(ids) > len(self.special_ids) else []


def pad_token_ids(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> np.ndarray:
    """Returns [n, length] int32 token ids, right-padded.

    Args:
        rows: token ids of each text.
        pad_id: token id to pad with.
        length: length of every row. Default: that of the longest one, at least 1.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    width = max(1, int(lengths.max(initial=0))) if length is None else length
    padded = np.full((len(rows), width), pad_id, dtype=np.int32)
    padded[np.arange(width) < lengths[:, None]] = [token for row in rows for token in row]
    return padded
