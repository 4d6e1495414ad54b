"""BM25 over the texts of a catalogue: lexical search, which needs no model.

bm25s computes the scores: for each word, the texts that hold it and the score of each. They are stored as plain arrays,
and the words as a `retrieval.bundle.catalogue.string_table`. Both are read without pickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.bundle.layout import BM25_ROWS, BM25_SCORES, BM25_STARTS, BM25_WORDS
from retrieval.index.errors import LexicalMissing
from retrieval.index.lexical.words import words_of
from retrieval.index.scan import best

K1, B = 1.5, 0.75
"""Saturation and length normalisation (Robertson & Zaragoza 2009)."""


class Bm25:
    """An index of texts. Immutable, and safe for several threads.

    Files that it was read from are mapped, so they must not change while the object lives.

    Attributes:
        words: Distinct words of all texts.
        count: Number of texts.
    """

    def __init__(self, words: Strings, starts: np.ndarray, rows: np.ndarray, scores: np.ndarray, count: int) -> None:
        """Takes the arrays.

        Args:
            words: distinct words of all texts.
            starts: [words + 1] integers; ``starts[w]:starts[w + 1]`` of `rows` and `scores` belongs to word w.
            rows: [total] int32, rows of the texts that hold the word.
            scores: [total] float32, score of the word in that text, above 0.
            count: number of texts.

        Raises:
            ValueError: the arrays do not belong together.
        """
        if (
            len(starts) != len(words) + 1
            or starts[0] != 0
            or np.any(np.diff(starts) < 0)
            or not len(rows) == len(scores) == starts[-1]
            or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count)
            or not (np.isfinite(scores).all() and np.all(scores > 0))
        ):
            raise ValueError(
                f"{len(words)} words, {len(starts)} starts, {len(rows)} rows and {len(scores)} scores are not an "
                f"index of {count} texts"
            )
        self.words, self.count = words, count
        self._starts, self._rows, self._scores = starts, rows, scores

    @staticmethod
    def of(texts: Sequence[str]) -> Bm25:
        """Returns the index of texts, at least one.

        Raises:
            LexicalMissing: bm25s is not installed.
        """
        words = [words_of(text) for text in texts]
        if not any(words):
            return Bm25(
                Strings.of(()), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), len(texts)
            )
        index = _import_bm25s().BM25(k1=K1, b=B)
        # By default bm25s adds an empty word, which no text holds.
        index.index(words, create_empty_token=False, show_progress=False)
        number_of, arrays = index.vocab_dict, index.scores
        ordered = sorted(number_of, key=number_of.__getitem__)
        return Bm25(Strings.of(ordered), arrays["indptr"], arrays["indices"], arrays["data"], len(texts))

    @staticmethod
    def read(folder: Path, count: int) -> Bm25:
        """Returns the index that `write` wrote; its arrays are mapped, its words are read.

        Args:
            folder: folder of the lexical index, whose files are verified.
            count: number of texts.

        Raises:
            OSError: a file cannot be read.
            ValueError: the files are not an index of this number of texts.
        """
        starts, rows, scores = (
            np.lib.format.open_memmap(folder / name, mode="r").view(np.ndarray)
            for name in (BM25_STARTS, BM25_ROWS, BM25_SCORES)
        )
        # Opened here, since NumPy would leave a file that is not an archive open.
        with (folder / BM25_WORDS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            try:
                words = Strings.from_arrays("words", arrays)
            except KeyError as error:
                raise ValueError(f"{BM25_WORDS} lacks {error}") from error
        kinds = [(array.dtype.kind, array.ndim) for array in (starts, rows, scores)]
        if kinds != [("i", 1), ("i", 1), ("f", 1)]:
            raise ValueError(
                f"{BM25_STARTS}, {BM25_ROWS} and {BM25_SCORES} are of kinds {kinds}, "
                "expected integers twice, then floats"
            )
        return Bm25(words, starts, rows, scores, count)

    def cut(self, start: int, stop: int) -> Bm25:
        """Returns the index of the texts `start` to `stop`, in which each of them has the scores that it has here.

        An index that is built of these texts alone would score them by how frequent the words are among them alone.
        """
        kept = (self._rows >= start) & (self._rows < stop)  # [total]
        words = np.repeat(np.arange(len(self.words)), np.diff(self._starts))[kept]
        counts = np.bincount(words, minlength=len(self.words))  # [words]
        used = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[used])]).astype(np.int64)
        rows = (self._rows[kept] - start).astype(np.int32)
        return Bm25(Strings.of(self.words[word] for word in used), starts, rows, self._scores[kept], stop - start)

    def write(self, folder: Path) -> None:
        """Writes the files of the index into a folder that has none of them yet."""
        for name, array in ((BM25_STARTS, self._starts), (BM25_ROWS, self._rows), (BM25_SCORES, self._scores)):
            np.save(folder / name, array, allow_pickle=False)
        arrays: dict[str, np.ndarray] = {}
        self.words.to_arrays("words", arrays)
        with (folder / BM25_WORDS).open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def scores(self, query: str) -> np.ndarray:
        """Returns the score of each text: [count] float32, 0 for a text that shares no word with the query."""
        positions = self.words.find(words_of(query))  # [n]
        count_by_word = Counter(positions[positions != ABSENT].tolist())  # in the order of the query
        scores = np.zeros(self.count, dtype=np.float32)
        for word, count in count_by_word.items():  # a word that is repeated takes no longer
            span = slice(self._starts[word], self._starts[word + 1])
            scores[self._rows[span]] += self._scores[span] * np.float32(count)
        return scores

    def find(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the texts that share a word with the query: rows, [n] int64, ascending, and scores, [n] float32."""
        scores = self.scores(query)
        rows = np.flatnonzero(scores)
        return rows, scores[rows]

    def rank(self, query: str, depth: int) -> list[int]:
        """Returns the rows of up to `depth` texts that share a word with the query, best first, ties by row."""
        return best(*self.find(query), depth).rows.tolist()


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise LexicalMissing(
            f"a lexical index needs the package bm25s, which cannot be imported here ({error}); "
            "install the extra: pip install 'two-tower-retrieval[lexical]'"
        ) from error
    return bm25s
