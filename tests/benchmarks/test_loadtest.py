"""Load test: requests, settings of a run filled into a configuration, and throughput of the servicers in process."""

from __future__ import annotations

from pathlib import Path

from benchmarks.loadtest import limits
from benchmarks.loadtest.ghz import CONFIGS, Run, complete, read_config
from retrieval.store.folder_store import FolderStore
from testbed.requests import make_requests
from tests.worlds import write_bundle


def test_every_configuration_sends_requests_that_are_made_from_a_bundle(store: FolderStore) -> None:
    requests = make_requests(store, write_bundle(store).bundle_version)
    assert requests.keys() == {
        read_config(path.stem)["data-file"].removesuffix(".json") for path in CONFIGS.glob("*.json")
    }


def test_the_servicers_answer_every_request_in_process(store: FolderStore) -> None:
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
