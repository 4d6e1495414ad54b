"""The exact scan: brute force search for many queries at once.

A score is a cosine similarity: larger is nearer. Hits are sorted by score, descending; ties by row, ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from retrieval.index.hits import Hits
from retrieval.steps import Steps, run_to_end

_QUERIES_AT_ONCE = 64
"""Number of queries of one matrix product."""
_SCORES_AT_ONCE = 2**19
"""Number of scores of one block: 2 MiB, about what the caches of one core hold."""
_FIRST_ROWS = 8192
"""Number of rows of a short first block."""
_WORTH_A_FIRST = 8
"""There is a short first block where there are more than this many times its rows."""
_COMPARED_AT_ONCE = 1024
"""Number of scores that one loop of a comparison covers, at most."""
_ROWS_GATHERED = 8192
"""Number of rows gathered at once: 2 MiB of 64-d vectors, so little that the allocator reuses the same pages."""


def score(vectors: np.ndarray, rows: np.ndarray | None, query: np.ndarray) -> np.ndarray:
    """Returns the cosine similarities of rows with a query: [n] float32.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        rows: [n] int64. None: all rows.
        query: [dimension] float32, unit length.
    """
    chosen = vectors if rows is None else np.take(vectors, rows, axis=0)  # [n, dimension]
    return _clipped(chosen @ query)  # [n]


def _clipped(scores: np.ndarray) -> np.ndarray:
    """Clips scores to [-1, 1] in place and returns them; for few scores np.clip takes twice as long."""
    return np.maximum(np.minimum(scores, 1.0, out=scores), -1.0, out=scores)


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> Hits:
    """Returns the `k` rows with the highest scores, best first; all n rows if n is at most `k`.

    Args:
        rows: [n] int64. Of rows that tie, the earlier one comes first.
        scores: [n] float32, scores of the rows.
        k: number of hits, at least 1.
    """
    if k < len(rows):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        # Rows that tie with the last one are kept until the sort, which puts the earlier ones first.
        kept = scores >= threshold
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:k]  # [k]
    return Hits(rows[order], scores[order])


def scan(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int | Sequence[int],
    *,
    allowed: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> list[Hits]:
    """Returns the exact nearest rows of each query at once; see `scan_steps`."""
    return run_to_end(scan_steps(vectors, queries, k, allowed=allowed, hidden=hidden))


def scan_steps(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int | Sequence[int],
    *,
    allowed: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> Steps[list[Hits]]:
    """Returns the exact nearest rows of each query. Pauses after each block of rows.

    Scores are computed by matrix products, one block of rows at a time. From the second block on, only scores above the
    `k`-th best so far are looked at. The product is rows times queries, because BLAS first copies the right-hand matrix
    into another order, and there are few queries.

    Args:
        vectors: [item_count, dimension] float32, unit length.
        queries: [n, dimension] float32, unit length.
        k: number of hits, at least 1: one number for each query, or one for all.
        allowed: [m] integers, ascending: the rows to search. Default: all rows.
        hidden: [item_count] bool: rows to leave out; used only where `allowed` is None. Default: none.
    """
    results: list[Hits] = []
    ks = [k] * len(queries) if isinstance(k, int) else k
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        group = slice(start, start + _QUERIES_AT_ONCE)
        results += yield from _scan_group(vectors, queries[group], ks[group], allowed, hidden)
    return results


def _scan_group(
    vectors: np.ndarray, queries: np.ndarray, ks: Sequence[int], allowed: np.ndarray | None, hidden: np.ndarray | None
) -> Steps[list[Hits]]:
    total = len(vectors) if allowed is None else len(allowed)
    least = 4 * min(ks)  # rows of a block; fewer would leave a threshold that most scores pass
    block = max(least, _SCORES_AT_ONCE // len(queries))
    # A short first block soon gives a threshold, which few scores of the other blocks pass.
    first = max(least, _FIRST_ROWS) if total > _WORTH_A_FIRST * _FIRST_ROWS else block
    bounds = [0, *range(min(first, total), total, block), total]
    # All blocks share one buffer: fresh pages would cost more than the product.
    scores = np.empty((min(max(first, block), total), len(queries)), dtype=np.float32)
    top = _TopRows(ks)
    for number, (start, stop) in enumerate(pairwise(bounds)):
        block_scores = scores[: stop - start]  # [stop - start, n]
        _score_block(vectors, queries, allowed, start, block_scores)
        if hidden is not None:
            block_scores[hidden[start:stop]] = -np.inf
        top.add(block_scores, start)
        # Merging after blocks 0, 1, 2, 4, 8, …: few merges, each of about as many rows as are kept.
        if number & (number - 1) == 0:
            top.merge()
        yield
    return top.finish(allowed)


def _score_block(
    vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None, start: int, scores: np.ndarray
) -> None:
    """Writes the scores of `m` rows into `scores`, [m, n] float32.

    The rows are `start` to `start + m` of `vectors`; where `allowed` is given, those at these positions of `allowed`.
    """
    if allowed is None:
        np.matmul(vectors[start : start + len(scores)], queries.T, out=scores)
        return
    for first in range(0, len(scores), _ROWS_GATHERED):
        part = scores[first : first + _ROWS_GATHERED]
        gathered = np.take(vectors, allowed[start + first :][: len(part)], axis=0)  # [len(part), dimension]
        np.matmul(gathered, queries.T, out=part)


class _TopRows:
    """The best rows so far of several queries."""

    def __init__(self, ks: Sequence[int]) -> None:
        self._ks = ks
        self._kept: list[Hits] = []
        self._thresholds = np.full(len(ks), -np.inf, dtype=np.float32)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, scores: np.ndarray, start: int) -> None:
        """Adds the scores of a block of rows; keeps those that are among the best so far.

        Args:
            scores: [m, n] float32, scores of m rows for n queries. The caller may overwrite the array afterwards.
            start: position of the first of the m rows among the scanned rows.
        """
        if not self._kept:
            positions = np.arange(start, start + len(scores), dtype=np.int64)
            self._kept = [best(positions, s, k) for s, k in zip(scores.T.copy(), self._ks, strict=True)]
            self._raise_thresholds()
            return
        rows, queries = np.divmod(np.flatnonzero(_above(scores, self._thresholds)), scores.shape[1])
        self._pending.append((queries, rows + start, scores[rows, queries]))

    def merge(self) -> None:
        """Merges the pending rows into the kept ones."""
        if not self._pending:
            return
        queries, rows, scores = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        order = np.argsort(queries, kind="stable")
        rows, scores = rows[order], scores[order]
        ends = np.cumsum(np.bincount(queries, minlength=len(self._kept))).tolist()
        for query, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                kept_rows, kept_scores = self._kept[query]
                merged = np.concatenate([kept_rows, rows[start:end]]), np.concatenate([kept_scores, scores[start:end]])
                self._kept[query] = best(*merged, self._ks[query])
        self._raise_thresholds()

    def finish(self, allowed: np.ndarray | None) -> list[Hits]:
        """Returns the hits of each query; where `allowed` is given, their positions in it become rows."""
        self.merge()
        results: list[Hits] = []
        for positions, scores in self._kept:
            shown = scores > -np.inf
            positions, scores = positions[shown], _clipped(scores[shown])
            rows = positions if allowed is None else allowed[positions].astype(np.int64)
            results.append(Hits(rows, scores))
        return results

    def _raise_thresholds(self) -> None:
        for query, (_, scores) in enumerate(self._kept):
            if len(scores) == self._ks[query]:
                self._thresholds[query] = scores[-1]


def _above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns whether each score is above the threshold of its query: [m, n] bool.

    A score that equals the threshold is not above it, because among equal scores the earlier row ranks first.

    Args:
        scores: [m, n] float32, scores of m rows for n queries.
        thresholds: [n] float32, threshold of each query.
    """
    count, query_count = scores.shape
    # NumPy starts a loop for each row, which for few queries costs ten times the comparison: compare rows together.
    rows_together = max(1, _COMPARED_AT_ONCE // query_count)
    whole = count - count % rows_together
    above = np.empty(scores.shape, dtype=np.bool_)
    wide = (-1, rows_together * query_count)
    np.greater(scores[:whole].reshape(wide), np.tile(thresholds, rows_together), out=above[:whole].reshape(wide))
    np.greater(scores[whole:], thresholds, out=above[whole:])
    return above
