"""Text encoders of the trainer: Keras models with the interface `retrieval.bundle.features.text.TextEncoder`."""

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
    """A text encoder in Keras with the interface `retrieval.bundle.features.text.TextEncoder`. Not thread-safe.

    Attributes:
        spec: Specification of the encoder.
        tokenizer: Tokenizer of the texts.
        model: Keras model, [n, length] int32 to [n, width] float32.
        rate: Learning rate of the encoder; None if it is not trained with the towers.
        store: Store of the vectors of an encoder that is not trained; None if vectors are not kept.
        progress: Progress reporter of `embed`.
    """

    spec: TextEncoderSpec
    tokenizer: Tokenizer
    model: keras.Model
    rate: float | None = None
    store: VectorStore | None = None
    progress: Progress = SILENT

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns the vectors of `texts`: [n, width] float32, zeros for None or an empty text.

        Each distinct text is embedded once.
        """
        distinct = list(dict.fromkeys(text for text in texts if text))
        vectors = self._embed_with_store(distinct) if self.store is not None else self._embed(distinct)
        row_of = {text: row for row, text in enumerate(distinct)}
        missing = np.zeros((1, self.spec.width), dtype=np.float32)
        return np.concatenate([vectors, missing])[[row_of[text] if text else -1 for text in texts]]

    def token_ids(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns the token ids of `texts` as the input of `model`: [n, max_tokens] int32, right-padded."""
        return pad_token_ids(self.tokenizer.tokenize(texts), self.spec.pad_id, self.spec.max_tokens)

    def _embed_with_store(self, texts: list[str]) -> np.ndarray:
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
        """Compiled function of the model without training: [n, length] int32 to [n, width] float32."""
        signature = [tf.TensorSpec((None, None), tf.int32)]
        return tf.function(lambda ids: self.model(ids, training=False), input_signature=signature)

    def save(self, folder: Path) -> None:
        """Writes the encoder to a new folder in `folder`, called by its name.

        Raises:
            OSError: The folder cannot be written.
        """
        own = folder / self.spec.name
        own.mkdir(parents=True, exist_ok=True)
        self.model.save(own / _KERAS)
        (own / TOKENIZER).write_text(self.tokenizer.json_text, encoding="utf-8")
        notes = {"rate": self.rate, "spec": dataclasses.asdict(self.spec)}
        (own / _NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path, spec: TextEncoderSpec, progress: Progress = SILENT) -> KerasText:
        """Returns the encoder that `save` wrote; its `embed` reports to `progress`.

        Raises:
            RunError: The encoder is missing or damaged.
        """
        # The import registers the backbones, and takes seconds.
        import keras_hub  # noqa: F401

        own = folder / spec.name
        try:
            model = keras.saving.load_model(own / _KERAS, compile=False)
            rate = json.loads((own / _NOTES).read_text(encoding="utf-8"))["rate"]
            tokenizer = Tokenizer.read(own / TOKENIZER, spec.max_tokens)
            return KerasText(spec, tokenizer, model, rate, progress=progress)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{own}: the text encoder cannot be read: {error}; train again") from error
