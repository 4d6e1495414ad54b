"""The candidates that shards found are read in parts, so that other calls get their turn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ann_service.plan import GroupLimit, Reranking, SearchPlan
from ann_service.shards.candidates import Candidates
from ann_service.shards.merge import merge
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.steps import run_to_end
from retrieval.store.folder_store import FolderStore
from tests.ann_service.shards.searches import BUNDLE
from tests.worlds import unit_vectors, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

COUNT = 5000
IDS = [f"i{row}" for row in range(COUNT)]
GENRES = pb.AttributeColumn(name="genres")
for _ in IDS:
    GENRES.string_lists.values.add(values=["drama", "comedy"])
FOUND = pb.SearchResult(item_ids=IDS, scores=np.linspace(1, 0, COUNT), attributes=[GENRES])
PLAN = SearchPlan(np.zeros(0), 10, None, np.zeros(0, dtype=np.int64), None, True, 1, return_attributes=("genres",))


class CountedVectors(dict[str, np.ndarray]):
    """Vectors by id that count how many were read."""

    read_count = 0

    def __getitem__(self, item_id: str) -> np.ndarray:
        self.read_count += 1
        return super().__getitem__(item_id)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> ShardedCatalogue:
    folder: Path = tmp_path_factory.mktemp("store")
    never: Any = None
    return ShardedCatalogue(write_bundle(FolderStore(folder), shards=2, **BUNDLE), never, False)


def test_reads_the_vectors_of_candidates_in_parts(catalogue: ShardedCatalogue) -> None:
    vectors = CountedVectors(zip(IDS, unit_vectors(COUNT, 1), strict=True))
    candidates = Candidates(PLAN._replace(reranking=Reranking(COUNT, diversity=0.1)), [FOUND])
    counts = [0, *(vectors.read_count for _ in candidates.rerank(catalogue, vectors)), vectors.read_count]
    assert counts[-1] == COUNT
    assert max(after - before for before, after in pairwise(counts)) <= 1000


def test_pauses_while_it_reads_the_values_of_candidates(catalogue: ShardedCatalogue) -> None:
    plan = PLAN._replace(reranking=Reranking(COUNT, group_limits=(GroupLimit("genres", 3),)))
    without = pb.SearchResult(item_ids=IDS, scores=FOUND.scores)
    plain = Candidates(PLAN._replace(reranking=Reranking(COUNT), return_attributes=()), [without])
    more = sum(1 for _ in Candidates(plan, [FOUND]).rerank(catalogue, {}))
    assert more - sum(1 for _ in plain.rerank(catalogue, {})) >= COUNT / 1000
    result = run_to_end(Candidates(plan, [FOUND]).rerank(catalogue, {}))
    assert list(result.item_ids) == IDS[:3]


def test_a_merge_pauses_after_each_attribute() -> None:
    plan = PLAN._replace(k=COUNT, return_attributes=("genres",) * 3)
    shard = pb.SearchResult(item_ids=IDS, scores=FOUND.scores, attributes=[GENRES] * 3)
    assert sum(1 for _ in merge(plan, [[shard, shard]])) >= 3
