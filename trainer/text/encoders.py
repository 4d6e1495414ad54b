"""Text encoders of the trainer: Keras models behind the interface that schemas use."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import trainer.text.layers  # noqa: F401  registers the layers that encoders are loaded with
from retrieval.bundle.features.text import TextEncoderSpec
from retrieval.bundle.features.tokenizer import Tokenizer, pad_token_ids
from retrieval.bundle.layout import TOKENIZER
from trainer.errors import RunError
from trainer.progress import SILENT, Progress
from trainer.text.batches import embed_rows
from trainer.text.vector_store import VectorStore

_KERAS, _NOTES = "encoder.keras", "encoder.json"


@dataclass(frozen=True, eq=False)
class KerasText:
    """A text encoder in Keras; `retrieval.bundle.features.text.TextEncoder` says what it promises. For one thread.

    Attributes:
        spec: what it is.
        tokenizer: makes token ids.
        model: [n, length] int32 to [n, width] float32.
        rate: learning rate, where it is trained with the towers; None: it stays as it is.
        store: keeps vectors of an encoder that stays as it is; None: nothing is kept.
        progress: what `embed` reports to.
    """

    spec: TextEncoderSpec
    tokenizer: Tokenizer
    model: keras.Model
    rate: float | None = None
    store: VectorStore | None = None
    progress: Progress = SILENT

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, width] float32 of [n] texts; each distinct text is embedded once."""
        distinct = list(dict.fromkeys(text for text in texts if text))
        vectors = self._kept(distinct) if self.store is not None else self._embed(distinct)
        row_of = {text: row for row, text in enumerate(distinct)}
        nothing = np.zeros((1, self.spec.width), dtype=np.float32)
        return np.concatenate([vectors, nothing])[[row_of[text] if text else -1 for text in texts]]

    def token_ids(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, max_tokens] int32, padded: what `model` takes, of texts that it is trained on."""
        return pad_token_ids(self.tokenizer.tokenize(texts), self.spec.pad_id, self.spec.max_tokens)

    def _kept(self, texts: list[str]) -> np.ndarray:
        assert self.store is not None
        new = [text for text, row in zip(texts, self.store.find(texts), strict=True) if row < 0]
        if new:
            self.store.add(new, self._embed(new))
        return self.store.take(self.store.find(texts))

    def _embed(self, texts: list[str]) -> np.ndarray:
        rows = self.tokenizer.tokenize(texts)
        with self.progress.counting("embedding texts", len(texts)) as advance:
            return embed_rows(rows, self.spec, lambda ids: self.run(ids).numpy(), advance)

    @cached_property
    def run(self) -> Callable[[np.ndarray], tf.Tensor]:
        """Takes [n, length] int32, returns [n, width] float32."""
        signature = [tf.TensorSpec((None, None), tf.int32)]
        return tf.function(lambda ids: self.model(ids, training=False), input_signature=signature)

    def save(self, folder: Path) -> None:
        """Writes it to a folder of its own below `folder`, which exists.

        Raises:
            OSError: it cannot be written.
        """
        own = folder / self.spec.name
        own.mkdir(parents=True, exist_ok=True)
        self.model.save(own / _KERAS)
        (own / TOKENIZER).write_text(self.tokenizer.json_text, encoding="utf-8")
        notes = {"rate": self.rate, "spec": dataclasses.asdict(self.spec)}
        (own / _NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path, spec: TextEncoderSpec, progress: Progress = SILENT) -> KerasText:
        """Returns what `save` wrote; its `embed` reports to `progress`.

        Raises:
            RunError: it is not there, or damaged.
        """
        # Registers the backbones; takes seconds.
        import keras_hub  # noqa: F401

        own = folder / spec.name
        try:
            model = keras.saving.load_model(own / _KERAS, compile=False)
            rate = json.loads((own / _NOTES).read_text(encoding="utf-8"))["rate"]
            tokenizer = Tokenizer.read(own / TOKENIZER, spec.max_tokens)
            return KerasText(spec, tokenizer, model, rate, progress=progress)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{own}: no text encoder that can be read: {error}; train again") from error
