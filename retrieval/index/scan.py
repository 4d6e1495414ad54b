"""The exact scan: the nearest rows by brute force, of many queries at once.

A score is the cosine similarity, larger is nearer. Results are sorted by score, descending, ties by row, ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Found = tuple[np.ndarray, np.ndarray]
"""Rows, [n] int64, distinct, and their scores, [n] float32: best first."""

_QUERIES_AT_ONCE = 64
_SCORES_AT_ONCE = 2**19
"""2 MiB: what the caches of one core hold, about."""
_FIRST_ROWS, _WORTH_A_FIRST = 8192, 8
"""Rows of the first block, and how many times as many there have to be for one of its own."""
_COMPARED_AT_ONCE = 1024
"""Scores, those of as many rows as fit: what a comparison does in one loop."""
_ROWS_GATHERED = 8192
"""2 MiB of 64-d vectors: small enough that the allocator gives the same pages again instead of fresh ones."""


def score(vectors: np.ndarray, rows: np.ndarray | None, query: np.ndarray) -> np.ndarray:
    """Returns the cosine similarities of rows with a query: [n] float32.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        rows: [n] int64; None: all of them.
        query: [dimension] float32, unit length.
    """
    chosen = vectors if rows is None else np.take(vectors, rows, axis=0)  # [n, dimension]
    return _clipped(chosen @ query)  # [n]


def _clipped(scores: np.ndarray) -> np.ndarray:
    """Returns the scores, in place made at most 1 from 0: np.clip takes twice as long for a few."""
    return np.maximum(np.minimum(scores, 1.0, out=scores), -1.0, out=scores)


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    """Returns the `k` best rows and their scores, sorted; all where there are fewer.

    Args:
        rows: [n] int64; of rows that tie, the earlier one wins.
        scores: [n] float32, of these rows.
        k: at least 1.
    """
    if k < len(rows):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        # All that tie with the last one are kept until the sort, so that the earlier ones win.
        kept = scores >= threshold
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:k]  # [k]
    return rows[order], scores[order]


def scan(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int | Sequence[int],
    *,
    allowed: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> list[Found]:
    """Returns the exact `k` best rows and their scores for each query.

    A matrix product in blocks; from the second block on only what beats the `k`-th best so far is looked at. Rows times
    queries, not the other way round: BLAS copies the right-hand matrix into another order first, and queries are few.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] float32, unit length.
        k: at least 1, of each query or of all.
        allowed: [m] integers, ascending: the rows to look at. Default: all.
        hidden: [item_count] bool: rows to leave out, where `allowed` is None. Default: none.
    """
    found: list[Found] = []
    ks = [k] * len(queries) if isinstance(k, int) else k
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        group = slice(start, start + _QUERIES_AT_ONCE)
        found += _scan_group(vectors, queries[group], ks[group], allowed, hidden)
    return found


def _scan_group(
    vectors: np.ndarray, queries: np.ndarray, ks: Sequence[int], allowed: np.ndarray | None, hidden: np.ndarray | None
) -> list[Found]:
    total = len(vectors) if allowed is None else len(allowed)
    filled = 4 * min(ks)  # rows of a block that leaves something to beat
    block = max(filled, _SCORES_AT_ONCE // len(queries))
    # A short block first: what it leaves to beat makes short work of all others.
    first = max(filled, _FIRST_ROWS) if total > _WORTH_A_FIRST * _FIRST_ROWS else block
    bounds = [0, *range(min(first, total), total, block), total]
    # The same memory for each block: fresh pages cost more than the product.
    scores = np.empty((min(max(first, block), total), len(queries)), dtype=np.float32)
    top = _TopRows(ks)
    for number, (start, stop) in enumerate(pairwise(bounds)):
        of_block = scores[: stop - start]  # [stop - start, n]
        _score_block(vectors, queries, allowed, start, of_block)
        if hidden is not None:
            of_block[hidden[start:stop]] = -np.inf
        top.add(of_block, start)
        # Doubling: few merges, and never more than about as many rows to merge as are kept.
        if number & (number - 1) == 0:
            top.merge()
    return top.finish(allowed)


def _score_block(
    vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None, start: int, scores: np.ndarray
) -> None:
    """Fills `scores`, [m, n] float32, with those of the next `m` rows from `start` on: of all, or of the allowed."""
    if allowed is None:
        np.matmul(vectors[start : start + len(scores)], queries.T, out=scores)
        return
    for first in range(0, len(scores), _ROWS_GATHERED):
        part = scores[first : first + _ROWS_GATHERED]
        gathered = np.take(vectors, allowed[start + first :][: len(part)], axis=0)  # [len(part), dimension]
        np.matmul(gathered, queries.T, out=part)


class _TopRows:
    """The best rows so far, of several queries."""

    def __init__(self, ks: Sequence[int]) -> None:
        self._ks = ks
        self._kept: list[Found] = []
        self._thresholds = np.full(len(ks), -np.inf, dtype=np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, scores: np.ndarray, start: int) -> None:
        """Takes the scores of a block, [m, n] float32, whose first row is row `start`; they are not kept."""
        if not self._kept:
            positions = np.arange(start, start + len(scores), dtype=np.int64)
            self._kept = [best(positions, of_query, k) for of_query, k in zip(scores.T.copy(), self._ks, strict=True)]
            self._raise_thresholds()
            return
        rows, at = np.divmod(np.flatnonzero(_above(scores, self._thresholds)), scores.shape[1])
        self._pending.append((at, rows + start, scores[rows, at]))

    def merge(self) -> None:
        """Makes what is pending part of what is kept."""
        if not self._pending:
            return
        at, rows, scores = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        order = np.argsort(at, kind="stable")
        rows, scores = rows[order], scores[order]
        ends = np.cumsum(np.bincount(at, minlength=len(self._kept))).tolist()
        for query, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                kept_rows, kept_scores = self._kept[query]
                merged = np.concatenate([kept_rows, rows[start:end]]), np.concatenate([kept_scores, scores[start:end]])
                self._kept[query] = best(*merged, self._ks[query])
        self._raise_thresholds()

    def finish(self, allowed: np.ndarray | None) -> list[Found]:
        """Returns what is kept; positions in `allowed`, where given, become the rows that stand there."""
        self.merge()
        found: list[Found] = []
        for positions, scores in self._kept:
            shown = scores > -np.inf
            positions, scores = positions[shown], _clipped(scores[shown])
            found.append((positions if allowed is None else allowed[positions].astype(np.int64), scores))
        return found

    def _raise_thresholds(self) -> None:
        for query, (_, scores) in enumerate(self._kept):
            if len(scores) == self._ks[query]:
                self._thresholds[query] = scores[-1]


def _above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns which scores [m, n] are above the thresholds [n]: [m, n] bool. Of rows that tie, the earlier one wins."""
    count, query_count = scores.shape
    # NumPy starts a loop for each row, which for a few queries costs ten times the comparison: compare rows together.
    rows_together = max(1, _COMPARED_AT_ONCE // query_count)
    whole = count - count % rows_together
    above = np.empty(scores.shape, dtype=np.bool_)
    wide = (-1, rows_together * query_count)
    np.greater(scores[:whole].reshape(wide), np.tile(thresholds, rows_together), out=above[:whole].reshape(wide))
    np.greater(scores[whole:], thresholds, out=above[whole:])
    return above
