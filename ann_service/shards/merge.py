"""Merges the answers of shards into those of one catalogue.

The best items of the catalogue are among the best of each shard, and all rankings give an item the same score in its
shard as in the whole catalogue. So a merge by score, best first, is exact where the answers of the shards are. Of equal
scores, the item of the earlier shard comes first, and within a shard the order of the shard stays: that is the order of
the items in the catalogue, as in a search of one catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ann_service.fusion import depth_of, reciprocal_rank_fusion
from ann_service.plan import SearchPlan
from ann_service.search import at_least
from retrieval.index.hits import Hits
from retrieval.index.scan import best
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb


def merge(plan: SearchPlan, results: Sequence[Sequence[pb.SearchResult]]) -> Steps[pb.SearchResult]:
    """Returns the result of a search. Pauses after each attribute.

    Args:
        plan: the search.
        results: for each search of its `ann_service.shards.questions.Question`, the result of each shard that answered,
            in the order of the shards.
    """
    pool = [result for ranking in results for result in ranking]
    ids: list[str] = [*chain.from_iterable(result.item_ids[:] for result in pool)]
    if plan.text is None or not plan.text.fused:
        positions, scores = best(np.arange(len(ids)), _scores(pool), plan.k)
    else:
        positions, scores = _fuse(plan, results, ids, plan.text.fusion_constant)
    merged = pb.SearchResult(item_ids=[ids[position] for position in positions.tolist()], scores=scores.tolist())
    if plan.return_attributes:
        yield
    for number, name in enumerate(plan.return_attributes):
        columns = [result.attributes[number] for result in pool]
        counts = [len(result.item_ids) for result in pool]
        merged.attributes.append(_pick(name, columns, counts, positions))
        yield
    return merged


def _scores(results: Sequence[pb.SearchResult]) -> np.ndarray:
    """Returns the scores of results, one after the other: [n] float32."""
    return np.array([*chain.from_iterable(result.scores[:] for result in results)], dtype=np.float32)


def _fuse(plan: SearchPlan, results: Sequence[Sequence[pb.SearchResult]], ids: Sequence[str], constant: int) -> Hits:
    """Returns the positions in `ids` of the fused ranking, and the fused scores: at most `k`, best first."""
    rankings: list[np.ndarray] = []
    position_of: dict[str, int] = {}
    start = 0
    for ranking in results:
        scores = _scores(ranking)
        ranked, _ = best(np.arange(start, start + len(scores)), scores, depth_of(plan.k))
        start += len(scores)
        chosen: list[int] = ranked.tolist()
        # An item that is in both rankings has one position: that in the first.
        rankings.append(np.array([position_of.setdefault(ids[p], p) for p in chosen], dtype=np.int64))
    fused = at_least(reciprocal_rank_fusion(rankings[0], rankings[1], constant), plan.min_score)
    return Hits(fused.rows[: plan.k], fused.scores[: plan.k])


def _pick(
    name: str, columns: Sequence[pb.AttributeColumn], counts: Sequence[int], positions: np.ndarray
) -> pb.AttributeColumn:
    """Returns the values of an attribute at some positions of the columns of several results.

    Args:
        name: name of the attribute.
        columns: column of each result.
        counts: number of items of each result.
        positions: [n] int64, positions in the columns, one after the other.
    """
    ends = np.cumsum(counts)
    owners = np.searchsorted(ends, positions, side="right")  # [n], columns of the positions
    own = positions - np.append(0, ends)[owners]
    chosen = list(zip(owners.tolist(), own.tolist(), strict=True))
    missing = [set(column.missing) for column in columns]
    picked = pb.AttributeColumn(name=name, missing=[n for n, (owner, p) in enumerate(chosen) if p in missing[owner]])
    if kind := next((column.WhichOneof("values") for column in columns), None):
        values = [getattr(column, kind).values for column in columns]
        getattr(picked, kind).SetInParent()
        getattr(picked, kind).values.extend([values[owner][position] for owner, position in chosen])
    return picked
