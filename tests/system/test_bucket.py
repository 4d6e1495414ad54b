"""Both services on a store in a bucket: swaps under load, and an object store that is slow, away or throttling."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrieval.store.location import open_store
from retrieval.store.store import BundleStore
from testbed.load import Load
from testbed.offline import OfflineBundle
from testbed.s3_server import S3Server
from testbed.services import Pair
from tests.trainer.world import KERAS_AND_NUMPY
from tests.worlds import wait_for, write_bundle
from two_tower_client import Retriever
from two_tower_client.ann import AnnClient

KILLS = int(os.environ.get("STORE_KILLS", "3"))  # the long form has 20
QUERIES: list[dict[str, Any]] = [{"age": 20 + n, "watched": [f"i{n}"]} for n in range(10)]

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture
def publisher(s3: S3Server) -> BundleStore:
    """The store as a machine sees it that publishes, with copies of its own."""
    return open_store(s3.url)


@contextmanager
def serving(
    s3: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch, **flags: str
) -> Iterator[tuple[Pair, Retriever]]:
    """Runs both services with a cache of their own, and yields them with a client."""
    with monkeypatch.context() as environment:
        environment.setenv("TWO_TOWER_CACHE", str(folder / "service-cache"))
        pair = Pair(s3.url, folder / "logs", flags={"retry-after-s": "1", "store-timeout-s": "2", **flags})
        with pair, Retriever(pair.query_towers[0].address, pair.anns[0].address, timeout_s=10.0) as retriever:
            yield pair, retriever


def status(pair: Pair) -> Any:
    with AnnClient(pair.anns[0].address) as client:
        return client.status()


def wait_for_answers(load: Load, version: str) -> None:
    before = load.tally.bundles[version]
    wait_for(lambda: load.tally.bundles[version] >= before + 50, f"answers of {version}", 120)


def test_swaps_and_faults_of_the_object_store_fail_no_request(
    s3: S3Server, publisher: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_bundle(publisher).bundle_version
    second = write_bundle(publisher, promote=False, seed=2, catalogue_seed=2, item_count=60_000).bundle_version
    offline = functools.cache(lambda version: OfflineBundle(publisher, version, QUERIES))
    with (
        serving(s3, tmp_path, monkeypatch) as (pair, retriever),
        Load(retriever, QUERIES, offline, clients=2, rate=200) as load,
    ):
        wait_for_answers(load, first)
        publisher.promote(second)
        wait_for_answers(load, second)
        publisher.roll_back()
        wait_for_answers(load, first)

        s3.kill()
        wait_for(lambda: any("LIVE" in p.message for p in status(pair).problems), "status names the fault", 60)
        wait_for_answers(load, first)
        s3.start()
        wait_for(lambda: not status(pair).problems, "the fault is over", 60)

        s3.faults.frozen = True
        wait_for(lambda: any("LIVE" in p.message for p in status(pair).problems), "status names the fault", 60)
        wait_for_answers(load, first)
        s3.faults.frozen = False
        wait_for(lambda: not status(pair).problems, "the fault is over", 60)

        third = write_bundle(publisher, promote=False, seed=3, catalogue_seed=3, item_count=60_000).bundle_version
        s3.faults.refuse = s3.faults.cut = 4
        publisher.promote(third)
        wait_for_answers(load, third)
        assert publisher.prune(1) == [second]  # the first was live before
        wait_for_answers(load, third)
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)
    lines = [json.loads(line) for line in pair.anns[0].log.read_text().splitlines()]
    assert any(line["event"].startswith("fetched all") for line in lines)


def test_a_swap_ends_although_the_server_dies_again_and_again(
    s3: S3Server, publisher: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_bundle(publisher).bundle_version
    size = 400_000  # 25 MB of vectors and index, in parts of 8 MiB
    second = write_bundle(publisher, promote=False, seed=2, catalogue_seed=2, item_count=size).bundle_version
    offline = functools.cache(lambda version: OfflineBundle(publisher, version, QUERIES))
    offline(second)  # while the server is there: what judges the answers reads the bundle from it too
    with (
        serving(s3, tmp_path, monkeypatch) as (_, retriever),
        Load(retriever, QUERIES, offline, clients=2, rate=100) as load,
    ):
        wait_for_answers(load, first)
        s3.faults.delay_s = 0.2
        publisher.promote(second)
        for _ in range(KILLS):
            seen = len(s3.requests)
            wait_for(lambda seen=seen: len(s3.requests) > seen + 2, "another request", 60)
            s3.kill()
            time.sleep(0.3)
            s3.start()
        s3.faults.delay_s = 0.0
        wait_for_answers(load, second)
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)
