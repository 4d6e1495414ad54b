"""BM25 over the texts of a catalogue: what a search engine answers without a model.

The scores are those of bm25s: its arrays hold, word by word, what each item gets for it. They are kept as plain arrays,
the words as `retrieval.bundle.catalogue.string_table`, and both are mapped or read without pickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.bundle.layout import BM25_ROWS, BM25_SCORES, BM25_STARTS, BM25_WORDS
from retrieval.index.lexical.words import words_of
from retrieval.index.scan import Found, best

K1, B = 1.5, 0.75
"""Saturation and length normalisation (Robertson & Zaragoza 2009)."""


class LexicalMissing(RuntimeError):
    """The package is not installed; the text says what to do."""


class Bm25:
    """An index of texts. Immutable, and safe for several threads.

    Where it was read from files, these have to stay as they are for as long as the object lives, since they are mapped.
    """

    def __init__(self, words: Strings, starts: np.ndarray, rows: np.ndarray, scores: np.ndarray, count: int) -> None:
        """Takes the arrays.

        Args:
            words: that stand in any text.
            starts: [words + 1] integers: what word w gives stands from ``starts[w]`` to ``starts[w + 1]``.
            rows: [total] int32, of the texts.
            scores: [total] float32, what each gets for the word, above 0.
            count: of texts.

        Raises:
            ValueError: the arrays do not go together.
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
                f"{len(words)} words, {len(starts)} starts, {len(rows)} rows and {len(scores)} scores are no index of "
                f"{count} texts"
            )
        self.words, self.count = words, count
        self._starts, self._rows, self._scores = starts, rows, scores

    @staticmethod
    def of(texts: Sequence[str]) -> Bm25:
        """Returns an index of [count] texts, at least one.

        Raises:
            LexicalMissing: bm25s is not installed.
        """
        words = [words_of(text) for text in texts]
        if not any(words):
            return Bm25(
                Strings.of(()), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), len(texts)
            )
        index = _import_bm25s().BM25(k1=K1, b=B)
        # Without the empty word that it would add, which no text holds.
        index.index(words, create_empty_token=False, show_progress=False)
        known, found = index.vocab_dict, index.scores
        ordered = sorted(known, key=known.__getitem__)
        return Bm25(Strings.of(ordered), found["indptr"], found["indices"], found["data"], len(texts))

    @staticmethod
    def read(folder: Path, count: int) -> Bm25:
        """Returns what `write` wrote, mapped but for the words.

        Args:
            folder: folder of the lexical index, whose files are verified.
            count: of texts.

        Raises:
            OSError: a file cannot be read.
            ValueError: the files are no index of so many texts.
        """
        starts, rows, scores = (
            np.lib.format.open_memmap(folder / name, mode="r").view(np.ndarray)
            for name in (BM25_STARTS, BM25_ROWS, BM25_SCORES)
        )
        # Opened here: numpy would leave a file open that turns out to be no archive.
        with (folder / BM25_WORDS).open("rb") as file, np.load(file, allow_pickle=False) as found:
            try:
                words = Strings.from_arrays("words", found)
            except KeyError as error:
                raise ValueError(f"{BM25_WORDS} lacks {error}") from error
        kinds = [(array.dtype.kind, array.ndim) for array in (starts, rows, scores)]
        if kinds != [("i", 1), ("i", 1), ("f", 1)]:
            raise ValueError(
                f"{BM25_STARTS}, {BM25_ROWS} and {BM25_SCORES} are of kinds {kinds}, "
                "expected integers twice, then floats"
            )
        return Bm25(words, starts, rows, scores, count)

    def write(self, folder: Path) -> None:
        """Writes the files of the index into a folder that lacks them."""
        for name, array in ((BM25_STARTS, self._starts), (BM25_ROWS, self._rows), (BM25_SCORES, self._scores)):
            np.save(folder / name, array, allow_pickle=False)
        arrays: dict[str, np.ndarray] = {}
        self.words.to_arrays("words", arrays)
        with (folder / BM25_WORDS).open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def scores(self, query: str) -> np.ndarray:
        """Returns [count] float32, 0 for a text that shares no word with the query."""
        found = self.words.find(words_of(query))  # [n]
        known = Counter(found[found != ABSENT].tolist())  # in the order of the query
        scores = np.zeros(self.count, dtype=np.float32)
        for word, times in known.items():  # a word that stands there five hundred times is as quick as one
            of_word = slice(self._starts[word], self._starts[word + 1])
            scores[self._rows[of_word]] += self._scores[of_word] * np.float32(times)
        return scores

    def find(self, query: str) -> Found:
        """Returns the texts that share a word with the query: rows, [n] int64, ascending, and scores, [n] float32."""
        scores = self.scores(query)
        rows = np.flatnonzero(scores)
        return rows, scores[rows]

    def rank(self, query: str, depth: int) -> list[int]:
        """Returns rows of texts that share a word with the query, best first, ties by row, at most `depth`."""
        return best(*self.find(query), depth)[0].tolist()


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise LexicalMissing(
            f"a lexical index needs the package bm25s, which cannot be imported here ({error}); "
            "install the extra: pip install 'two-tower-retrieval[lexical]'"
        ) from error
    return bm25s
