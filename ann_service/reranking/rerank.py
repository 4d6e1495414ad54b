"""Makes the result of a search from the lists that hold its candidates.

```
the ranking ──────────┐
favoured by boost 1 ──┼─► pool ─► by score plus boosts ─► candidates ─┬─► marginal relevance, group limits ─► result
favoured by boost 2 ──┘                                               └─► facets
```
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ann_service.catalogue import Catalogue
from ann_service.plan import Boost, Reranked, Reranking, SearchPlan
from ann_service.reranking import facets
from ann_service.reranking.diversity import Chosen, Groups, choose
from retrieval.index.hits import Hits
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_COMPONENTS_PER_STEP = 200_000
"""Number of components of vectors that are read at once: some tenths of a millisecond."""


def list_plans(plan: SearchPlan) -> list[SearchPlan]:
    """Returns the searches whose results are the lists that `rerank` takes; none of them has a reranking.

    Args:
        plan: a search; without a reranking, it is its own list.
    """
    if (reranking := plan.reranking) is None:
        return [plan]
    ranking = plan._replace(k=reranking.candidates_limit, reranking=None)
    return [ranking, *(ranking._replace(allowed=boost.favoured) for boost in fetching_boosts(plan, reranking))]


def fetching_boosts(plan: SearchPlan, reranking: Reranking) -> Sequence[Boost]:
    """Returns the boosts that fetch candidates: none where scores depend on what else is ranked, as of fused ones."""
    return () if plan.text is not None and plan.text.fused else reranking.boosts


def rerank(catalogue: Catalogue, plan: SearchPlan, lists: Sequence[Hits]) -> Steps[Reranked]:
    """Returns the result of a search with a reranking.

    Args:
        catalogue: catalogue of the rows.
        plan: the search.
        lists: hits of each of its `list_plans`.
    """
    reranking = plan.reranking
    if reranking is None:
        raise ValueError("a search without a reranking has its list as its result")
    rows, scores, boosts = yield from _candidates(reranking, lists)
    yield
    more = pb.SearchResult(candidate_count=len(rows))
    for facet in reranking.facets:
        counted = yield from facets.count(catalogue.items.attributes[facet.attribute], rows, facet)
        more.facets.append(counted)
        yield
    chosen = yield from _choose(catalogue, plan, reranking, rows, scores + boosts)
    kept = chosen.positions
    more.shortened_by_group_limits = len(kept) < min(plan.k, len(rows))
    if reranking.boosts:
        more.boosts.extend(boosts[kept].tolist())
    if reranking.diversity:
        more.marginal_relevances.extend(chosen.marginal_relevances.tolist())
    return Reranked(rows[kept], scores[kept], more)


def _candidates(reranking: Reranking, lists: Sequence[Hits]) -> Steps[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns rows, scores and boosts of the candidates: [n] int64, float32 and float64, best first.

    The order is that of score plus boosts; of equal ones, that of the lists, one after the other. Pauses after each
    list.
    """
    if not reranking.boosts:
        [(rows, scores)] = lists
        return rows, scores, np.zeros(len(rows))
    rows, scores, boosts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros(0)
    seen = np.zeros(reranking.boosts[0].matches.item_count, dtype=bool)  # memory that is not written to is not read
    for each in lists:
        # An item is in several lists with the same score, up to rounding: the first one counts.
        is_new = ~seen[each.rows]
        new, seen[each.rows] = each.rows[is_new], True
        added = np.zeros(len(new))
        for boost in reranking.boosts:
            added += boost.weight * boost.matches.contains(new)
        rows, scores = np.concatenate([rows, new]), np.concatenate([scores, each.scores[is_new]])
        boosts = np.concatenate([boosts, added])
        kept = np.argsort(-(scores + boosts), kind="stable")[: reranking.candidates_limit]
        rows, scores, boosts = rows[kept], scores[kept], boosts[kept]
        yield
    return rows, scores, boosts


def _choose(
    catalogue: Catalogue, plan: SearchPlan, reranking: Reranking, rows: np.ndarray, boosted: np.ndarray
) -> Steps[Chosen]:
    """Returns the candidates of the result.

    Args:
        catalogue: catalogue of the rows.
        plan: the search.
        reranking: its reranking.
        rows: [n] int64, candidates, best first.
        boosted: [n] float64, their scores plus boosts, descending.
    """
    if not reranking.diversity and not reranking.group_limits:
        return Chosen(np.arange(min(plan.k, len(rows))), boosted[: plan.k].astype(np.float32))
    groups = [
        Groups(catalogue.items.attributes[each.attribute], rows, each.max_group_size) for each in reranking.group_limits
    ]
    vectors = (yield from _take(catalogue.vectors, rows)) if reranking.diversity else catalogue.vectors[:0]
    is_cosine = plan.text is None and not plan.is_popular
    largest = 1.0 if is_cosine else float(np.max(np.abs(boosted), initial=0.0))
    relevances = boosted / largest if largest else boosted
    return (yield from choose(relevances, vectors, plan.k, reranking.diversity, groups))


def _take(vectors: np.ndarray, rows: np.ndarray) -> Steps[np.ndarray]:
    """Returns `vectors` at `rows`: [n, dimension] float32. Pauses while it reads many."""
    taken = np.empty((len(rows), vectors.shape[1]), dtype=vectors.dtype)
    at_once = max(1, _COMPONENTS_PER_STEP // max(1, vectors.shape[1]))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        taken[part] = vectors[rows[part]]  # [up to at_once, dimension]
        yield
    return taken
