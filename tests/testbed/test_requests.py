"""Requests made from a bundle, and configurations completed for a run."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf.json_format import ParseDict

from benchmarks.loadtest import limits
from benchmarks.loadtest.ghz import CONFIGS, Run, complete, read_config
from retrieval.store.store import BundleStore
from testbed.requests import make_requests, write_requests
from tests.worlds import write_bundle
from two_tower.ann.v1 import ann_service_pb2
from two_tower.query.v1 import query_tower_service_pb2


def test_files_hold_requests_of_the_bundle_as_ghz_reads_them(store: BundleStore, tmp_path: Path) -> None:
    manifest = write_bundle(store)
    write_requests(make_requests(store, manifest.bundle_version), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        read_config(path.stem)["data-file"].removesuffix(".json") for path in CONFIGS.glob("*.json")
    }
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


def test_the_servicers_answer_every_request_in_process(store: BundleStore) -> None:
    manifest = write_bundle(store)
    requests = make_requests(store, manifest.bundle_version)
    rates = limits.measure(store, requests, 0.02)
    assert rates.keys() == requests.keys()
    assert all(rate > 0 for rate in rates.values())


def test_a_configuration_is_completed_for_its_run(tmp_path: Path) -> None:
    run = Run("127.0.0.1:4711", tmp_path, 3.0, 0.5, 250.0)
    constant = complete(read_config("embed-constant"), run)
    assert (constant["host"], constant["duration"], constant["rps"]) == ("127.0.0.1:4711", "3s", 250)
    assert constant["data-file"] == str(tmp_path / "data" / "embed-single.json")
    assert Path(constant["proto"]).is_file()
    stepped = complete(read_config("search-steps"), run)
    # Five steps of half a second, up to all of the rate.
    assert [stepped[key] for key in ("load-start", "load-step", "load-end", "load-step-duration", "duration")] == [
        50, 50, 250, "0.5s", "2.5s",
    ]  # fmt: skip
    assert "rps" not in complete(read_config("embed-single"), Run("h:1", tmp_path, 3.0, 0.5, None))
    assert "skipFirst" not in constant  # a failure that is skipped would not count
    warm = complete(read_config("embed-constant"), Run("h:1", tmp_path, 3.0, 0.5, 101.0, warm_up_s=0.5))
    assert warm["skipFirst"] == 50
