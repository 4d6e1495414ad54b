"""Turns each search of a request into the searches that every shard answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ann_service.filters.conditions import attributes_of
from ann_service.fusion import depth_of
from ann_service.plan import Reranking, SearchPlan
from ann_service.reranking.options import favoured_filter
from ann_service.reranking.rerank import fetching_boosts, list_plans
from two_tower.ann.v1 import ann_service_pb2 as pb


@dataclass(frozen=True, eq=False)
class Question:
    """A search of a request, and the searches to which the shards' answers make up its result.

    Attributes:
        plan: The search, validated.
        searches: One search, or two whose merged rankings are fused: by embedding, then by text. With a reranking,
            those of all `lists`, one after the other.
        lists: With a reranking, a question for each list of its candidates; see
            `ann_service.reranking.rerank.list_plans`.
    """

    plan: SearchPlan
    searches: Sequence[pb.Search]
    lists: Sequence[Question] = ()


def make_question(search: pb.Search, plan: SearchPlan) -> Question:
    """Returns what to ask the shards for one search.

    Each shard is asked for as many items as the request, because all of them may be in one shard. Items to be similar
    to become their mean, which no shard alone can compute, and are excluded.

    Args:
        search: search of the request.
        plan: the same search, validated.
    """
    if search.HasField("similar_to"):
        search = _copy(search)
        search.exclude_item_ids.extend(dict.fromkeys(search.similar_to.values))
        search.embedding.values[:] = plan.query.tolist()  # replaces `similar_to`, since both are targets
    if plan.reranking is not None:
        lists = _make_lists(search, plan, plan.reranking)
        return Question(plan, [each for question in lists for each in question.searches], lists)
    if plan.text is None or not plan.text.fused:
        return Question(plan, [search])
    by_embedding, by_text = _copy(search), _copy(search)
    for each in (by_embedding, by_text):
        each.k = depth_of(plan.k)
        each.ClearField("min_score")  # it is one of fused scores
        each.ClearField("fusion_constant")
    by_embedding.ClearField("text")
    by_embedding.ranking = pb.RANKING_EMBEDDING
    by_text.ClearField("embedding")
    by_text.ranking = pb.RANKING_LEXICAL
    return Question(plan, [by_embedding, by_text])


def _make_lists(search: pb.Search, plan: SearchPlan, reranking: Reranking) -> list[Question]:
    """Returns what to ask the shards for each list of candidates, with all attributes that the reranking reads.

    Args:
        search: search of the request, not by similarity to items.
        plan: the same search, validated.
        reranking: its reranking.
    """
    names = dict.fromkeys(plan.return_attributes)
    names |= dict.fromkeys(each.attribute for each in (*reranking.group_limits, *reranking.facets))
    for boost in reranking.boosts:
        names |= dict.fromkeys(attributes_of(boost.filter))
    base = _copy(search)
    base.k = reranking.candidates_limit
    base.return_attributes[:] = list(names)
    for field in ("candidates_limit", "boosts", "diversify", "facets"):
        base.ClearField(field)
    searches = [base]
    for boost in search.boosts[: len(fetching_boosts(plan, reranking))]:
        favoured = _copy(base)
        favoured.filter.CopyFrom(favoured_filter(search, boost))
        searches.append(favoured)
    plans = [each._replace(return_attributes=tuple(names)) for each in list_plans(plan)]
    return [make_question(each, of_list) for each, of_list in zip(searches, plans, strict=True)]


def _copy(search: pb.Search) -> pb.Search:
    copy = pb.Search()
    copy.CopyFrom(search)
    return copy
