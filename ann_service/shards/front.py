"""Answers calls over a catalogue in shards: the front of the shards.

```
each call: items to be similar to ─┐
                                   ├─► ask all shards for their vectors ─► each call: parse ─► questions ─┐
other calls that wait: the same ───┘                                                                      │
                   each call: merge ◄─── ask all shards all questions at once ◄───────────────────────────┘
                          │
  candidates to compare   ├──────────────────────────────────────────┐
                          └─► ask all shards for their vectors ──────┴─► each call: rerank, build the response
```
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ann_service import requests, responses
from ann_service.catalogue import Catalogue
from ann_service.shards.candidates import Candidates
from ann_service.shards.merge import merge
from ann_service.shards.questions import Question, make_question
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.serving.answering.call import Call, run_together
from retrieval.serving.answering.errors import ShardsNotAnswering, UnknownItem
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

LONGEST_WAIT_S = 60.0
"""Longest wait for the shards, in seconds, whatever the deadline of the caller."""

_SHARE_OF_DEADLINE = 0.8
"""Largest share of the time that a caller still waits for which the front waits for the shards."""


@dataclass(eq=False, slots=True)
class Asked:
    """A call to a catalogue in shards.

    Attributes:
        call: The call.
        searches: Its searches, checked by `ann_service.requests.check`.
        newest_model_version: Model version of the newest open bundle.
        questions: What the shards are asked; empty before the searches are parsed.
        merged: Result of each question, or its candidates, whose reranking has to follow; empty before the shards
            answered.
    """

    call: Call
    searches: Sequence[pb.Search]
    newest_model_version: str
    questions: list[Question] = field(default_factory=list[Question])
    merged: list[pb.SearchResult | Candidates] = field(default_factory=list[pb.SearchResult | Candidates])


def answer(catalogue: ShardedCatalogue, group: Sequence[Asked], max_k: int) -> Steps[None]:
    """Answers calls together; in the end each of them has a response or an error, unless this raises.

    Args:
        catalogue: catalogue that answers them.
        group: calls, at least one.
        max_k: largest `k` of a search.

    Raises:
        Exception: a bug, in a shard or here.
    """
    known = yield from run_together([asked.call for asked in group], _find_similar_to(catalogue, group))
    if known is None:
        return
    for asked in group:
        asked.questions = (yield from asked.call.run(_parse(catalogue, known, asked.searches, max_k))) or []
    group = [asked for asked in group if asked.call.error is None]
    if not group:
        return
    searches = [search for asked in group for question in asked.questions for search in question.searches]
    body = pb.SearchItemsRequest(searches=searches).SerializeToString()
    calls = [asked.call for asked in group]
    answers = yield from run_together(calls, catalogue.shards.search(body, _timeout_s(group)))
    if answers is None:
        return
    silent = [each is None for each in answers]
    results = [list(pb.SearchItemsResponse.FromString(each).results) for each in answers if each is not None]
    start = 0
    for asked in group:
        end = start + sum(len(question.searches) for question in asked.questions)
        own = [each[start:end] for each in results]
        asked.merged = (yield from asked.call.run(_merge(catalogue, asked.questions, own, silent))) or []
        start = end
    group = [asked for asked in group if asked.call.error is None]
    calls = [asked.call for asked in group]
    compared = yield from run_together(calls, _find_candidates(catalogue, group, silent))
    if compared is None:
        return
    for asked in group:
        asked.call.response = (yield from asked.call.run(_respond(catalogue, asked, compared, silent))) or b""


def answer_alone(catalogue: ShardedCatalogue, asked: Asked, max_k: int) -> Steps[bytes]:
    """Returns the response to one call.

    Args:
        catalogue: catalogue that answers it.
        asked: the call.
        max_k: largest `k` of a search.

    Raises:
        ServiceError: one of those that the proto lists.
    """
    yield from answer(catalogue, [asked], max_k)
    if asked.call.error is not None:
        raise asked.call.error
    return asked.call.response


@dataclass(frozen=True, eq=False)
class _Known:
    """What the shards know of the items that searches name in `similar_to`.

    Attributes:
        catalogue: These items, for parsing.
        silent: Whether each shard did not answer.
    """

    catalogue: Catalogue
    silent: Sequence[bool]


def _find_similar_to(catalogue: ShardedCatalogue, group: Sequence[Asked]) -> Steps[_Known]:
    """Returns what the shards know of the items that searches name; asks them only if there are any."""
    named = {
        item_id: None
        for asked in group
        for search in asked.searches
        # The others are refused when they are parsed.
        if len(search.similar_to.values) <= requests.MAX_SIMILAR
        for item_id in search.similar_to.values
    }
    if not named:
        return _Known(catalogue.without_items, [False] * len(catalogue.manifest.shards))
    item_ids = list(named)
    found = yield from catalogue.shards.find(item_ids, _timeout_s(group))
    positions = np.concatenate([np.zeros(0, dtype=np.int64), *(each.positions for each in found if each is not None)])
    vectors = [each.vectors for each in found if each is not None]
    dimension = catalogue.manifest.dimension
    parsing = catalogue.with_items(
        [item_ids[position] for position in positions.tolist()],
        np.concatenate([np.zeros((0, dimension), dtype=np.float32), *vectors]),
    )
    return _Known(parsing, [each is None for each in found])


def _parse(
    catalogue: ShardedCatalogue, known: _Known, searches: Sequence[pb.Search], max_k: int
) -> Steps[list[Question]]:
    """Returns what to ask the shards for the searches of a call.

    Raises:
        InvalidRequest, UnknownItem: as of one catalogue.
        ShardsNotAnswering: a search is by similarity to an item that may be in a shard which does not answer.
    """
    try:
        plans = yield from requests.parse(searches, known.catalogue, max_k)
    except UnknownItem:
        if any(known.silent):
            raise _not_answering(catalogue, known.silent) from None
        raise
    questions: list[Question] = []
    for search, plan in zip(searches, plans, strict=True):
        questions.append(make_question(search, plan))
        if len(searches) > 1:
            yield
    return questions


def _merge(
    catalogue: ShardedCatalogue,
    questions: Sequence[Question],
    results: Sequence[Sequence[pb.SearchResult]],
    silent: Sequence[bool],
) -> Steps[list[pb.SearchResult | Candidates]]:
    """Returns the result of each question, or its candidates.

    Args:
        catalogue: catalogue that answers them.
        questions: questions of a call.
        results: for each shard that answered, the result of each search of the questions.
        silent: whether each shard did not answer.

    Raises:
        ShardsNotAnswering: no shard answered, or one did not, and an answer has to be of all.
    """
    _check_coverage(catalogue, silent)
    merged: list[pb.SearchResult | Candidates] = []
    numbers = iter(range(sum(len(question.searches) for question in questions)))
    for question in questions:
        parts: list[pb.SearchResult] = []
        for part in question.lists or [question]:
            own = [[shard[number] for shard in results] for number in islice(numbers, len(part.searches))]
            parts.append((yield from merge(part.plan, own)))
            yield
        merged.append(Candidates(question.plan, parts) if question.lists else parts[0])
    return merged


@dataclass(frozen=True, eq=False)
class _Compared:
    """The candidates that rerankings compare with each other.

    Attributes:
        vectors: Vector of each candidate by id: [dimension] float32.
        silent: Whether each shard did not answer, now or before.
    """

    vectors: Mapping[str, np.ndarray]
    silent: Sequence[bool]


def _find_candidates(catalogue: ShardedCatalogue, group: Sequence[Asked], silent: Sequence[bool]) -> Steps[_Compared]:
    """Returns the candidates that are compared with each other; asks the shards only if there are any.

    Args:
        catalogue: catalogue that answers the calls.
        group: calls with merged results.
        silent: whether each shard did not answer.
    """
    compared = [each for asked in group for each in asked.merged if isinstance(each, Candidates) and each.needs_vectors]
    distinct: dict[str, None] = {}
    for each in (own for candidates in compared for own in candidates.lists):
        distinct |= dict.fromkeys(each.item_ids)
        yield
    if not distinct:
        return _Compared({}, silent)
    item_ids = list(distinct)
    found = yield from catalogue.shards.find(item_ids, _timeout_s(group))
    vectors: dict[str, np.ndarray] = {}
    for each in found:
        if each is not None:
            vectors |= zip([item_ids[position] for position in each.positions.tolist()], each.vectors, strict=True)
            yield
    return _Compared(vectors, [away or each is None for away, each in zip(silent, found, strict=True)])


def _respond(catalogue: ShardedCatalogue, asked: Asked, compared: _Compared, silent: Sequence[bool]) -> Steps[bytes]:
    """Returns the serialized response to a call.

    Args:
        catalogue: catalogue that answers it.
        asked: the call.
        compared: candidates that rerankings compare with each other.
        silent: whether each shard did not answer the questions.

    Raises:
        ShardsNotAnswering: no shard answered, or one did not, and an answer has to be of all.
    """
    if any(isinstance(each, Candidates) and each.needs_vectors for each in asked.merged):
        silent = compared.silent
        _check_coverage(catalogue, silent)
    coverage = catalogue.coverage(not away for away in silent)
    response = responses.begin(catalogue.manifest, asked.newest_model_version, coverage)
    for each in asked.merged:
        result = (yield from each.rerank(catalogue, compared.vectors)) if isinstance(each, Candidates) else each
        responses.add_message(response, result)
        yield
    return response.getvalue()


def _check_coverage(catalogue: ShardedCatalogue, silent: Sequence[bool]) -> None:
    """Checks that the shards that answered may answer alone.

    Raises:
        ShardsNotAnswering: no shard answered, or one did not, and an answer has to be of all.
    """
    if all(silent) or (any(silent) and not catalogue.allows_partial):
        raise _not_answering(catalogue, silent)


def _not_answering(catalogue: ShardedCatalogue, silent: Sequence[bool]) -> ShardsNotAnswering:
    names = [shard.name for shard, away in zip(catalogue.manifest.shards, silent, strict=True) if away]
    return ShardsNotAnswering(names, catalogue.coverage(not away for away in silent))


def _timeout_s(group: Sequence[Asked]) -> float:
    """Returns how long to wait for the shards, so that the caller who waits longest still gets what there is."""
    left_s = max(asked.call.deadline for asked in group) - time.monotonic()
    return min(LONGEST_WAIT_S, max(0.0, _SHARE_OF_DEADLINE * left_s))
