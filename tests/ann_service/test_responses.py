"""Building SearchItemsResponse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ann_service.catalogue import Catalogue
from ann_service.plan import SearchPlan
from ann_service.responses import build
from retrieval.bundle.catalogue.items import ItemTable, StringColumn
from retrieval.index.hits import Hits
from two_tower.ann.v1 import ann_service_pb2 as pb

PLAN = SearchPlan(np.zeros(0), 1, None, np.zeros(0, dtype=np.int64), None, exact=False, budget=1)
WITH_ATTRIBUTE = SearchPlan(
    np.zeros(0), 1, None, np.zeros(0, dtype=np.int64), None, exact=False, budget=1, return_attributes=("c",)
)


def catalogue(items: ItemTable) -> Catalogue:
    manifest: Any = SimpleNamespace(model_version="m1", bundle_version="b2")
    index: Any = None
    return Catalogue(manifest, items, np.zeros(0), index)


def hits(rows: list[int], scores: list[float]) -> Hits:
    return Hits(np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float32))


# Ids of more than 127 bytes are encoded in another way; "é" is two bytes in UTF-8.
@pytest.mark.parametrize("long", ["é" * 3, "x" * 127, "x" * 128, "é" * 20_000])
def test_each_search_gets_its_own_items_and_scores_in_order(long: str) -> None:
    items = ItemTable.of(["a", long, "", "d"], {"c": StringColumn.of([None, "red", "blue", None])})
    results = [hits([1, 3], [0.5, -0.25]), hits([], []), hits([0, 2, 1], [1.0, 0.5, 0.0])]
    response = build(catalogue(items), [PLAN, PLAN, WITH_ATTRIBUTE], results, "m3")
    column = pb.AttributeColumn(name="c", strings=pb.StringColumn(values=["", "blue", "red"]), missing=[0])
    assert list(response.results) == [
        pb.SearchResult(item_ids=[long, "d"], scores=[0.5, -0.25]),
        pb.SearchResult(),
        pb.SearchResult(item_ids=["a", "", long], scores=[1.0, 0.5, 0.0], attributes=[column]),
    ]
    assert (response.model_version, response.bundle_version, response.newest_model_version) == ("m1", "b2", "m3")


def test_searches_without_hits_have_empty_results() -> None:
    items = ItemTable.of(["a"], {})
    response = build(catalogue(items), [PLAN, PLAN], [hits([], [])] * 2, "m3")
    assert list(response.results) == [pb.SearchResult(), pb.SearchResult()]
