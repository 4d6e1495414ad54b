"""Answers of shards on Ray beside one machine's exact answers, and the recall of shards beside that of one index."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.attack.rows import Row
from benchmarks.shards.reference import TOLERANCE, Nearest, Question, Reference, item_row, to_search
from testbed.shards.bundles import MODEL
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc

_NAME = "equality"
_TIMEOUT_S = 60.0

Ask = Callable[[pb.Search], Nearest]


def asking(stub: ann_grpc.AnnServiceStub) -> Ask:
    """Returns a function from a search to the answer of a service, which has to be of the whole catalogue."""

    def ask(search: pb.Search) -> Nearest:
        response = stub.SearchItems(pb.SearchItemsRequest(searches=[search], model_version=MODEL), timeout=_TIMEOUT_S)
        if response.coverage != 1.0:
            raise RuntimeError(f"an answer covers {response.coverage} of the items, and no node was killed")
        [result] = response.results
        rows = np.array([item_row(item_id) for item_id in result.item_ids], dtype=np.int64)
        return Nearest(rows, np.array(result.scores, dtype=np.float32))

    return ask


def judge(reference: Reference, one: Ask, one_budget: int, ray: Ask) -> Iterator[Row]:
    """Yields the rows of answers on Ray, one call at a time.

    Args:
        reference: right answers of the bundle in shards.
        one: service over one index of the same vectors.
        one_budget: search budget of this index.
        ray: service over the shards.
    """
    queries, every = reference.queries, reference.every_shard()
    exact = [reference.merged(Question(row, True), every) for row in range(len(queries))]
    found = [reference.merged(Question(row, False), every) for row in range(len(queries))]
    for promise, right, is_exact in (
        ("exact answers equal to one machine's exact merged reference", exact, True),
        ("answers by index equal to the merged answers of the shards alone", found, False),
    ):
        equal = sum(
            _are_equal(ray(reference.to_search(Question(row, is_exact))), each) for row, each in enumerate(right)
        )
        yield Row(_NAME, promise, equal, len(queries), "", True, "ids and scores")
    recalls = {
        "one": _recall(one, queries, exact, None),
        "published": _recall(ray, queries, exact, None),
        "same": _recall(ray, queries, exact, one_budget),
        "split": _recall(ray, queries, exact, max(1, one_budget // len(every))),
    }
    note = f"one index {recalls['one']:.4f}; a {len(every)}th of the budget in each shard {recalls['split']:.4f}"
    floor = recalls["one"]
    yield Row(_NAME, "recall@100 with the budget of the bundle", recalls["published"], floor, "", True)
    yield Row(_NAME, f"recall@100 with the budget of one index, {one_budget:,}", recalls["same"], floor, "", True, note)


def _are_equal(answer: Nearest, right: Nearest) -> bool:
    """Returns whether an answer has the right scores, and the right items but for those that tie with the last one."""
    if len(answer.rows) != len(right.rows) or not np.allclose(answer.scores, right.scores, rtol=0, atol=TOLERANCE):
        return False
    certain = right.rows[right.scores > right.scores[-1] + TOLERANCE]
    return set(certain.tolist()) <= set(answer.rows.tolist())


def _recall(ask: Ask, queries: np.ndarray, exact: list[Nearest], budget: int | None) -> float:
    hits = sum(
        len(set(ask(to_search(query, False, budget)).rows.tolist()) & set(right.rows.tolist()))
        for query, right in zip(queries, exact, strict=True)
    )
    return hits / sum(len(right.rows) for right in exact)
