"""A shard that answers a search, but not the question for the vectors of its candidates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.shards import front
from ann_service.shards.local_shards import LocalEngine, LocalShards
from ann_service.shards.shard import Found
from ann_service.shards.sharded_catalogue import ShardedCatalogue
from retrieval.serving.answering.call import Call
from retrieval.serving.answering.errors import ShardsNotAnswering
from retrieval.steps import Steps, run_to_end
from retrieval.store.folder_store import FolderStore
from tests.ann_service.shards.searches import BUNDLE, ITEMS, by_embedding
from tests.worlds import write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

DIVERSE = by_embedding(k=30, diversify=pb.Diversify(diversity=0.5), facets=[pb.Facet(attribute="year")])


class SilentOnVectors:
    """The open shards of a bundle, the last of which does not answer `find`; otherwise as `LocalShards`."""

    def __init__(self, shards: LocalShards) -> None:
        self._shards = shards
        self.lexical_attributes, self.cache_bytes = shards.lexical_attributes, 0
        self.search = shards.search

    def find(self, item_ids: Sequence[str], timeout_s: float) -> Steps[list[Found | None]]:
        found = yield from self._shards.find(item_ids, timeout_s)
        return [*found[:-1], None]


def answer(folder: Path, allows_partial: bool, *searches: pb.Search) -> pb.SearchItemsResponse:
    store = FolderStore(folder)
    manifest = write_bundle(store, shards=2, **BUNDLE)
    shards: Any = LocalEngine(CatalogueLoader(store, AnnConfig(store=folder))).open(manifest, ())
    catalogue = ShardedCatalogue(manifest, SilentOnVectors(shards), allows_partial)
    never: Any = None
    call = Call(never, b"", "", time.monotonic(), time.monotonic() + 30, never)
    asked = front.Asked(call, searches, manifest.model_version)
    return pb.SearchItemsResponse.FromString(run_to_end(front.answer_alone(catalogue, asked, 200)))


def test_a_partial_answer_leaves_its_items_out_and_says_so(tmp_path: Path) -> None:
    response = answer(tmp_path, True, DIVERSE)
    [result] = response.results
    first_shard = (ITEMS + 1) // 2
    assert response.coverage == pytest.approx(first_shard / ITEMS, abs=1e-3)
    assert all(int(item[1:]) < first_shard for item in result.item_ids)
    assert len(result.item_ids) == 30 <= result.candidate_count < 100


def test_without_partial_answers_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardsNotAnswering):
        answer(tmp_path, False, DIVERSE)


def test_searches_that_compare_no_candidates_are_answered_in_full(tmp_path: Path) -> None:
    response = answer(tmp_path, False, by_embedding(facets=[pb.Facet(attribute="year")]))
    assert (response.coverage, len(response.results[0].item_ids)) == (1.0, 10)
