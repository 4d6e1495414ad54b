"""Requests for ghz, made from a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf.json_format import ParseDict

from retrieval.store.folder_store import FolderStore
from testbed.requests import make_requests, write_requests
from tests.worlds import write_bundle
from two_tower.ann.v1 import ann_service_pb2
from two_tower.query.v1 import query_tower_service_pb2


def test_files_hold_requests_of_the_bundle_as_ghz_reads_them(store: FolderStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    write_requests(make_requests(store, manifest.bundle_version), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "embed-batch.json", "embed-single.json", "search-batch.json", "search-exclude.json", "search-filter.json",
        "search-single.json",
    ]  # fmt: skip
    single = json.loads((tmp_path / "embed-single.json").read_text())
    first = ParseDict(single[0], query_tower_service_pb2.EmbedQueriesRequest())
    # The first golden query of the world: 25 years, f, device 7, likes comedy, watched i1 to i5.
    assert first.queries[0].features["age"].floats.values == [25.0]
    assert first.queries[0].features["device"].ints.values == [7]
    assert first.queries[0].features["watched"].strings.values == ["i1", "i2", "i3", "i4", "i5"]
    batch = json.loads((tmp_path / "search-batch.json").read_text())
    assert [len(request["searches"]) for request in batch] == [32] * 4
    search = ParseDict(
        json.loads((tmp_path / "search-exclude.json").read_text())[0], ann_service_pb2.SearchItemsRequest()
    )
    assert search.model_version == manifest.model_version
    assert (search.searches[0].k, len(search.searches[0].exclude_item_ids)) == (100, 100)
    # Half of the items of the world are comedies, and no genre is more common.
    filtered = ParseDict(
        json.loads((tmp_path / "search-filter.json").read_text())[0], ann_service_pb2.SearchItemsRequest()
    )
    assert filtered.searches[0].filter.equals.attribute == "genres"
    assert filtered.searches[0].filter.equals.value.string_value == "comedy"
