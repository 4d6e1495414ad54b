"""BM25 over the texts of a catalogue: what a search engine answers without a model."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from bundle.words import words_of

K1, B = 1.5, 0.75
"""Saturation and length normalisation (Robertson & Zaragoza 2009)."""


class Bm25:
    """An index of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Indexes [item_count] texts."""
        self._count = len(texts)
        self._index = bm25s.BM25(k1=K1, b=B)
        self._index.index([words_of(text) for text in texts], show_progress=False)

    def rank(self, query: str, depth: int) -> list[int]:
        """Returns rows of texts that share a word with the query, best first, at most `depth`."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:depth]
        return [int(row) for row in best if scores[row] > 0]

    def scores(self, query: str) -> np.ndarray:
        """Returns [item_count] float32, 0 for a text that shares no word with the query."""
        words = [word for word in words_of(query) if word in self._index.vocab_dict]
        return self._index.get_scores(words) if words else np.zeros(self._count, dtype=np.float32)
