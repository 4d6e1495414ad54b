"""Ranking by the words of a text: lexical alone, or fused with the embedding's.

Fused scores are the sum, over the two lists, of 1 / (constant + rank) (Cormack, Clarke & Büttcher 2009). Both lists
hold what filter and exclusions let through, so that neither is thinned out within its depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.search import at_least, find_all
from retrieval.index.hits import Hits
from retrieval.index.scan import best

FUSION_DEPTH = 100
"""Both lists of a fused search are so long, or `k` where that is more."""


def rank_all(catalogue: Catalogue, plans: Sequence[SearchPlan]) -> list[Hits]:
    """Returns the hits of each plan, at most k.

    Args:
        catalogue: with a lexical index where any plan has a text.
        plans: ranked by whatever they say.
    """
    if all(plan.text is None for plan in plans):
        return find_all(catalogue, plans)
    dense = iter(find_all(catalogue, [_dense(plan) for plan in plans if plan.text is None or plan.text.fused]))
    hits: list[Hits] = []
    for plan in plans:
        if plan.text is None:
            hits.append(next(dense))
            continue
        ranked = find_by_words(catalogue, plan, _depth(plan) if plan.text.fused else plan.k)
        if plan.text.fused:
            ranked = fuse(next(dense)[0], ranked[0], plan.text.fusion_constant)
        rows, scores = at_least(*ranked, plan.min_score)
        hits.append(Hits(rows[: plan.k], scores[: plan.k]))
    return hits


def find_by_words(catalogue: Catalogue, plan: SearchPlan, depth: int) -> Hits:
    """Returns the allowed rows that share a word with the text, and their BM25 scores: best first, at most `depth`.

    Args:
        catalogue: with a lexical index.
        plan: with a text; its `k` and `min_score` are not looked at.
        depth: at least 1.
    """
    if catalogue.lexical is None or plan.text is None:
        raise ValueError("a search by words needs a lexical index and a text")
    rows, scores = catalogue.lexical.index.find(plan.text.value)
    kept = np.ones(len(rows), dtype=bool) if plan.allowed is None else plan.allowed.contain(rows)
    kept &= ~plan.leaves_out(rows)
    return best(rows[kept], scores[kept], depth)


def fuse(first: np.ndarray, second: np.ndarray, constant: int) -> Hits:
    """Returns two rankings made one, best first; of equal scores those of `first` lead, in its order.

    Args:
        first: [n] int64 rows, distinct, best first.
        second: [m] int64 rows, likewise.
        constant: what is added to each rank.
    """
    scores: dict[int, float] = {}
    for ranking in (first, second):
        for rank, row in enumerate(ranking.tolist(), 1):
            scores[row] = scores.get(row, 0.0) + 1.0 / (constant + rank)
    rows, values = np.array([*scores], dtype=np.int64), np.array([*scores.values()])
    order = np.argsort(-values, kind="stable")
    return Hits(rows[order], values[order].astype(np.float32))


def _dense(plan: SearchPlan) -> SearchPlan:
    return plan if plan.text is None else plan._replace(k=_depth(plan), min_score=None)


def _depth(plan: SearchPlan) -> int:
    return max(FUSION_DEPTH, plan.k)
