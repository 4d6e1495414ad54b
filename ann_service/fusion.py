"""Ranks the items of each search: by embedding, by the words of a text (BM25), by both, or by popularity.

A search by both fuses the two rankings with reciprocal rank fusion. Filter and exclusions are applied to each ranking
before it is cut to the depth of the fusion, so that they do not shorten it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ann_service import search
from ann_service.catalogue import Catalogue
from ann_service.plan import Result, SearchPlan
from ann_service.reranking.rerank import list_plans, rerank
from retrieval.index.hits import Hits
from retrieval.index.scan import best
from retrieval.steps import Steps

FUSION_DEPTH = 100
"""Length of the two rankings that are fused, or `k` if that is more."""

_ROWS_PER_STEP = 16_384
"""Items that one step of a ranking by popularity looks at, at most: about a millisecond."""


def rank(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> Steps[list[Result]]:
    """Returns the result of each plan: rows, [n] int64, and scores, [n] float32, best first, n at most k.

    Args:
        catalogue: catalogue to search; it has a lexical index if a plan has a text, and a popularity if one needs it.
        plans: searches; `SearchPlan.text` and `SearchPlan.is_popular` say by what each is ranked, and
            `SearchPlan.reranking` what follows.
    """
    if all(plan.reranking is None for plan in plans):
        return [*(yield from _rank(catalogue, plans))]
    lists = [list_plans(plan) for plan in plans]
    ranked = iter((yield from _rank(catalogue, [each for of_plan in lists for each in of_plan])))
    results: list[Result] = []
    for plan, of_plan in zip(plans, lists, strict=True):
        own = [next(ranked) for _ in of_plan]
        results.append(own[0] if plan.reranking is None else (yield from rerank(catalogue, plan, own)))
        yield
    return results


def _rank(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> Steps[list[Hits]]:
    """Returns the hits of each plan, without a reranking."""
    if all(plan.text is None and not plan.is_popular for plan in plans):
        return (yield from search.run_steps(catalogue, plans))
    embedded = [
        _embedding_part(plan) for plan in plans if not plan.is_popular and (plan.text is None or plan.text.fused)
    ]
    by_embedding = iter((yield from search.run_steps(catalogue, embedded)))
    results: list[Hits] = []
    for plan in plans:
        if plan.is_popular:
            results.append(search.at_least((yield from _rank_by_popularity(catalogue, plan)), plan.min_score))
            yield
            continue
        if plan.text is None:
            results.append(next(by_embedding))
            continue
        hits = rank_by_text(catalogue, plan, depth_of(plan.k) if plan.text.fused else plan.k)
        if plan.text.fused:
            hits = reciprocal_rank_fusion(next(by_embedding).rows, hits.rows, plan.text.fusion_constant)
        rows, scores = search.at_least(hits, plan.min_score)
        results.append(Hits(rows[: plan.k], scores[: plan.k]))
        yield
    return results


def rank_by_text(catalogue: Catalogue, plan: SearchPlan, depth: int) -> Hits:
    """Returns the allowed rows that share a word with the text, and their BM25 scores: best first, at most `depth`.

    Args:
        catalogue: catalogue with a lexical index.
        plan: search with a text; its `k` and `min_score` are not used.
        depth: largest number of hits, at least 1.
    """
    if catalogue.lexical is None or plan.text is None:
        raise ValueError("a search by words needs a lexical index and a text")
    rows, scores = catalogue.lexical.index.find(plan.text.value)
    kept = np.ones(len(rows), dtype=bool) if plan.allowed is None else plan.allowed.contains(rows)
    kept &= ~plan.is_excluded(rows)
    return best(rows[kept], scores[kept], depth)


def reciprocal_rank_fusion(first: np.ndarray, second: np.ndarray, constant: int) -> Hits:
    """Returns the fused ranking of two rankings, best first; among equal scores the rows of `first` lead.

    The score of a row is the sum of 1 / (constant + rank) over the rankings that hold it, ranks counted from 1
    (Cormack, Clarke and Büttcher 2009).

    Args:
        first: [n] int64, distinct rows, best first.
        second: [m] int64, distinct rows, best first.
        constant: constant that is added to each rank, at least 1.
    """
    row_scores: dict[int, float] = {}
    for ranking in (first, second):
        for position, row in enumerate(ranking.tolist(), 1):
            row_scores[row] = row_scores.get(row, 0.0) + 1.0 / (constant + position)
    rows, scores = np.array([*row_scores], dtype=np.int64), np.array([*row_scores.values()])
    order = np.argsort(-scores, kind="stable")
    return Hits(rows[order], scores[order].astype(np.float32))


def _rank_by_popularity(catalogue: Catalogue, plan: SearchPlan) -> Steps[Hits]:
    """Returns the most popular allowed rows and their shares: best first, ties by row, at most `k`.

    Args:
        catalogue: catalogue with a popularity.
        plan: search for popular items; its `min_score` is not used.
    """
    if (popularity := catalogue.popularity) is None:
        raise ValueError("a search for popular items needs a popularity")
    if plan.allowed is not None and plan.allowed.count <= _ROWS_PER_STEP:
        rows = plan.allowed.rows
        rows = rows[~plan.is_excluded(rows)].astype(np.int64)
        return best(rows, popularity.shares[rows], plan.k)
    kept, kept_count = [np.zeros(0, dtype=np.int64)], 0
    start, count = 0, plan.k + len(plan.excluded)  # without a filter, this many rows are enough
    while start < len(popularity.order) and kept_count < plan.k:
        rows = popularity.order[start : start + min(count, _ROWS_PER_STEP)].astype(np.int64)
        start += len(rows)
        if plan.allowed is not None:
            rows = rows[plan.allowed.contains(rows)]
        kept.append(rows[~plan.is_excluded(rows)])
        kept_count += len(kept[-1])
        count *= 2
        yield
    rows = np.concatenate(kept)[: plan.k]
    return Hits(rows, popularity.shares[rows])


def _embedding_part(plan: SearchPlan) -> SearchPlan:
    """Returns the search by embedding that a plan needs; if fused, to the fusion's depth and without a lowest score."""
    return plan if plan.text is None else plan._replace(k=depth_of(plan.k), min_score=None)


def depth_of(k: int) -> int:
    """Returns the length of the two rankings that are fused for `k` items."""
    return max(FUSION_DEPTH, k)
