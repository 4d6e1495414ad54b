"""Texts of queries to vectors: tokenizer, LiteRT, and a cache of what was asked before."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from prometheus_client import CollectorRegistry, Counter

from bundle.texts import TextEncoderSpec, Tokenizer, pad

_SIGNATURE, _INPUT, _OUTPUT = "serve", "ids", "embedding"
_CALL_COST_TOKENS = 16
"""What a further call costs beside the tokens that it carries: resizing, and small matrices."""


class TextMetrics:
    """What is counted of texts. Safe for several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers it, at zero."""
        self.lookups = Counter(
            "two_tower_text_cache_lookups",
            "Texts looked up in the cache of text embeddings: hit, or miss, which is then computed.",
            ["result"],
            registry=registry,
        )
        self.hits, self.misses = self.lookups.labels("hit"), self.lookups.labels("miss")
        self.tokens = Counter(
            "two_tower_text_tokens", "Tokens that a text encoder computed, with padding.", registry=registry
        )


class TextCache:
    """The vectors of the texts asked last, of one model. Safe for several threads; never above its size."""

    def __init__(self, size: int, metrics: TextMetrics) -> None:
        """Makes it empty.

        Args:
            size: texts that it holds, at most; 0 holds none.
            metrics: told of hits and misses.
        """
        self._size, self._metrics = size, metrics
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """How many texts it holds."""
        return len(self._vectors)

    def find(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the vectors [width] float32 of those `texts` that are there; they count as asked now."""
        found: dict[str, np.ndarray] = {}
        with self._lock:
            for text in texts:
                vector = self._vectors.get(text)
                if vector is not None:
                    self._vectors.move_to_end(text)
                    found[text] = vector
        self._metrics.hits.inc(len(found))
        self._metrics.misses.inc(len(texts) - len(found))
        return found

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keeps vectors [n, width] float32 of `texts` [n]; those asked longest ago make room."""
        if not self._size:
            return
        with self._lock:
            for text, vector in zip(texts, vectors, strict=True):
                self._vectors[text] = vector.copy()  # a view would keep the whole batch
                self._vectors.move_to_end(text)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


class ServedText:
    """A text encoder that answers; `bundle.texts.TextEncoder` says what it promises.

    Interpreters wait in a pool, as those of `query_tower_service.encoder.QueryTower` do.
    """

    def __init__(self, folder: Path, spec: TextEncoderSpec, threads: int, cache: TextCache, metrics: TextMetrics):
        """Loads it.

        Args:
            folder: of the bundle, whose files are verified.
            spec: as in the manifest.
            threads: how many calls may run at once without waiting for a new interpreter.
            cache: of this encoder alone.
            metrics: told of tokens.

        Raises:
            OSError, ValueError, RuntimeError: its files are no such encoder.
        """
        self._spec, self._cache, self._metrics = spec, cache, metrics
        self._tokenizer = Tokenizer.read(folder / spec.tokenizer_path, spec.max_tokens)
        self._path = folder / spec.encoder_path
        self._runners = deque(self._new_runner() for _ in range(threads))
        width = list(self._runners[0].get_output_details()[_OUTPUT]["shape"][1:])
        if width != [spec.width] or list(self._runners[0].get_input_details()) != [_INPUT]:
            raise ValueError(f"text encoder {spec.name} makes {width}, the manifest says {spec.width}")

    @property
    def spec(self) -> TextEncoderSpec:
        """What it is."""
        return self._spec

    def embed(self, texts: Sequence[str | None]) -> np.ndarray:
        """Returns [n, width] float32 of [n] texts: unit length, zeros where there is no text."""
        distinct = list(dict.fromkeys(text for text in texts if text))
        known = self._cache.find(distinct) if distinct else {}
        new = [text for text in distinct if text not in known]
        if new:
            vectors = self._compute(self._tokenizer.tokenize(new))
            self._cache.add(new, vectors)
            known.update(zip(new, vectors, strict=True))
        nothing = np.zeros(self._spec.width, dtype=np.float32)
        return np.stack([known[text] if text else nothing for text in texts])  # [n, width]

    def _compute(self, rows: list[list[int]]) -> np.ndarray:
        vectors = np.zeros((len(rows), self._spec.width), dtype=np.float32)
        for group in groups_by_length([len(row) for row in rows], self._spec.kind == "static"):
            ids = pad([rows[row] for row in group], self._spec.pad_id)
            self._metrics.tokens.inc(ids.size)
            vectors[group] = self._run(ids)
        return vectors

    def _run(self, ids: np.ndarray) -> np.ndarray:
        try:
            runner = self._runners.pop()
        except IndexError:
            runner = self._new_runner()
        try:
            # A copy: the interpreter's own buffer is overwritten by the next call.
            return np.array(runner(**{_INPUT: ids})[_OUTPUT], dtype=np.float32)
        finally:
            self._runners.append(runner)

    def _new_runner(self) -> Any:
        return Interpreter(model_path=str(self._path), num_threads=1).get_signature_runner(_SIGNATURE)


def groups_by_length(lengths: Sequence[int], together: bool = False) -> list[list[int]]:
    """Returns rows in groups to run together, those without a token left out; longest first.

    A row joins the group before it unless its padding there costs more than a call of its own.

    Args:
        lengths: tokens of each row.
        together: whether one group is best in any case, as padding costs next to nothing.
    """
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    wasted = 0
    for row in order:
        if groups:
            wasted += lengths[groups[-1][0]] - lengths[row]
        if not groups or (wasted > _CALL_COST_TOKENS and not together):
            groups.append([])
            wasted = 0
        groups[-1].append(row)
    return groups
