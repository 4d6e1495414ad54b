"""A deployed text encoder: texts to vectors, with a cache of recent texts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cachetools import LRUCache

from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.text import TextEncoders, TextEncoderSpec
from retrieval.bundle.features.tokenizer import Tokenizer, pad_token_ids
from retrieval.bundle.layout import EMBEDDING, TOKEN_IDS
from retrieval.inference.interpreter_pool import InterpreterPool

_CALL_COST_TOKENS = 16
"""Fixed cost of one call, in tokens: resizing, and small matrices."""
_MAX_TOKENS = 1 << 15
"""Largest number of tokens of one call, which bounds its memory."""


class TextObserver:
    """Base of observers of text encoders; it ignores every event. Subclasses must be safe for several threads."""

    def looked_up(self, hits: int, misses: int) -> None:
        """Called after each lookup in the cache.

        Args:
            hits: number of texts that were in the cache.
            misses: number of texts that were not.
        """

    def before_run(self, token_count: int) -> None:
        """Called once for each run of the encoder, before it starts.

        Args:
            token_count: number of tokens of the run, padding included.
        """


class TextCache:
    """A cache of the vectors of recently used texts. Safe for several threads."""

    def __init__(self, size: int, observer: TextObserver) -> None:
        """Makes an empty cache.

        Args:
            size: largest number of texts, which is never exceeded; 0 caches nothing.
            observer: observer of hits and misses.
        """
        self._observer = observer
        self._lock = threading.Lock()
        self._vectors: LRUCache[str, np.ndarray] = LRUCache(size)

    def __len__(self) -> int:
        """Returns the number of cached texts."""
        return len(self._vectors)

    def find(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the cached vectors among those of `texts`, by text, and marks them as recently used.

        Each vector is [width] float32, unit length. Texts that are not cached are left out.
        """
        hits: dict[str, np.ndarray] = {}
        with self._lock:
            for text in texts:
                vector = self._vectors.get(text)
                if vector is not None:
                    hits[text] = vector
        self._observer.looked_up(len(hits), len(texts) - len(hits))
        return hits

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Adds vectors to the cache, and evicts the least recently used ones beyond the size of the cache.

        Args:
            texts: [n] texts.
            vectors: [n, width] float32, vector of each text.
        """
        if not self._vectors.maxsize:
            return
        with self._lock:
            for text, vector in zip(texts, vectors, strict=True):
                self._vectors[text] = vector.copy()  # a view would keep the whole batch in memory


class LiteRtTextEncoder:
    """A text encoder in memory; implements `retrieval.bundle.features.text.TextEncoder`. Safe for several threads.

    Attributes:
        spec: Description of the encoder.
    """

    def __init__(
        self,
        folder: Path,
        spec: TextEncoderSpec,
        thread_count: int = 1,
        cache_size: int = 0,
        observer: TextObserver | None = None,
    ) -> None:
        """Loads the encoder.

        Args:
            folder: folder of the bundle, whose files are verified.
            spec: description of the encoder, from the manifest.
            thread_count: number of calls that may run at once without loading a further interpreter.
            cache_size: largest number of texts whose vectors are cached; 0 caches nothing.
            observer: observer of hits, misses and tokens. Default: none.

        Raises:
            OSError, ValueError, RuntimeError: the files are not an encoder of this spec.
        """
        self.spec = spec
        self._observer = observer or TextObserver()
        self._cache = TextCache(cache_size, self._observer)
        self._tokenizer = Tokenizer.read(folder / spec.tokenizer_path, spec.max_tokens)
        self._interpreters = InterpreterPool(folder / spec.encoder_path, thread_count)
        width = self._interpreters.outputs.get(EMBEDDING)
        if width != [spec.width] or list(self._interpreters.inputs) != [TOKEN_IDS]:
            raise ValueError(f"text encoder {spec.name} makes {width}, the manifest says {spec.width}")

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns the vectors of [n] texts: [n, width] float32, unit length, zeros where there is no text."""
        distinct = list(dict.fromkeys(text for text in texts if text))
        known = self._cache.find(distinct) if distinct else {}
        new = [text for text in distinct if text not in known]
        if new:
            computed = self._compute(self._tokenizer.tokenize(new))
            self._cache.add(new, computed)
            known.update(zip(new, computed, strict=True))
        vectors = np.zeros((len(texts), self.spec.width), dtype=np.float32)
        for row, text in enumerate(texts):
            if text:
                vectors[row] = known[text]
        return vectors

    def _compute(self, rows: list[list[int]]) -> np.ndarray:
        """Returns the vectors of [n] texts, given the token ids of each: [n, width] float32."""
        vectors = np.zeros((len(rows), self.spec.width), dtype=np.float32)
        for group in groups_by_length([len(row) for row in rows], self.spec.kind == "static"):
            ids = pad_token_ids([rows[row] for row in group], self.spec.pad_id)
            self._observer.before_run(ids.size)
            vectors[group] = self._interpreters.run({TOKEN_IDS: ids})
        return vectors


def groups_by_length(lengths: Sequence[int], together: bool = False) -> list[list[int]]:
    """Returns groups of rows, each of which runs in one call: longest rows first, rows without a token left out.

    A row joins the last group, unless that group is full, or its padding would then cost more than another call.

    Args:
        lengths: number of tokens of each row.
        together: whether to ignore the cost of padding, which makes groups as large as possible.
    """
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    longest = wasted = 0
    for row in order:
        wasted += longest - lengths[row]
        is_full = bool(groups) and (len(groups[-1]) + 1) * longest > _MAX_TOKENS
        if not groups or is_full or (wasted > _CALL_COST_TOKENS and not together):
            groups.append([])
            longest, wasted = lengths[row], 0
        groups[-1].append(row)
    return groups


def open_text_encoders(
    folder: Path,
    schema: FeatureSchema,
    thread_count: int = 1,
    cache_size: int = 0,
    observer: TextObserver | None = None,
) -> TextEncoders:
    """Returns the text encoders of a bundle that a schema needs.

    Args:
        folder: folder of the bundle, whose files are verified.
        schema: feature schema of a tower.
        thread_count: see `LiteRtTextEncoder`.
        cache_size: see `LiteRtTextEncoder`; each encoder has a cache of its own.
        observer: see `LiteRtTextEncoder`.

    Raises:
        OSError, ValueError, RuntimeError: a file cannot be read.
    """
    specs = schema.text_encoder_specs.values()
    return TextEncoders(tuple(LiteRtTextEncoder(folder, s, thread_count, cache_size, observer) for s in specs))
