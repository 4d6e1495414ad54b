"""Text encoders of a bundle, asked by the trainer: for checks, and for items that are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bundle.texts import OpenTextEncoder, TextEncoderSpec, Tokenizer
from trainer.quiet import quiet_stderr
from trainer.text.batches import embed_rows

SIGNATURE, INPUT, OUTPUT = "serve", "ids", "embedding"


@dataclass(frozen=True, eq=False)
class LiteText:
    """A text encoder as it is served; `bundle.texts.TextEncoder` says what it promises. For one thread."""

    spec: TextEncoderSpec
    tokenizer: Tokenizer
    runner: Any

    @staticmethod
    def open(folder: Path, spec: TextEncoderSpec) -> LiteText:
        """Returns the encoder in a bundle's folder, whose files are verified.

        Raises:
            OSError, ValueError, RuntimeError: it cannot be read.
        """
        tokenizer = Tokenizer.read(folder / spec.tokenizer_path, spec.max_tokens)
        with quiet_stderr():
            runner = Interpreter(model_path=str(folder / spec.encoder_path)).get_signature_runner(SIGNATURE)
        return LiteText(spec, tokenizer, runner)

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, width] float32."""
        rows = self.tokenizer.tokenize(texts)
        return embed_rows(rows, self.spec, lambda ids: np.array(self.runner(**{INPUT: ids})[OUTPUT]))


def opener(folder: Path) -> OpenTextEncoder:
    """Returns what opens the text encoders in the folder of a bundle, whose files are verified."""
    return lambda spec: LiteText.open(folder, spec)
