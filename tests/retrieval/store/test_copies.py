"""The copies of a store in a bucket that a machine keeps: bounded, fetched once, and of one user."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from retrieval.bundle.errors import BundleRefused, StoreError
from retrieval.store.location import open_store
from testbed.s3_server import S3Server
from tests.retrieval.store.test_object_store import BIG, other_machine
from tests.retrieval.store.test_store import publish
from tests.worlds import wait_for

CONTEXT = multiprocessing.get_context("spawn")


def _hold(url: str, version: str, held: Any, done: Any) -> None:
    store = open_store(url)
    store.verify(version)
    held.set()
    done.wait(60)


def test_the_cache_is_bounded_and_what_a_process_uses_stays(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = open_store(s3.url)
    a, b, c, d = (publish(publisher, os.urandom(5 << 20)) for _ in range(4))
    monkeypatch.setenv("TWO_TOWER_CACHE_GIB", str(12 / 1024))  # of two bundles, not of three
    store = other_machine(s3, monkeypatch)
    held, done = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=_hold, args=(s3.url, a, held, done))
    process.start()
    try:
        assert held.wait(60)
        store.verify(b)
        with pytest.raises(BundleRefused, match=r"12 MiB, of which bundles in use take 10 MiB") as caught:
            store.verify(c)
        assert caught.value.gate == "disk"
        store.keep([])
        store.verify(c)
        assert sorted(path.name for path in (store.path(c).parent).iterdir()) == [a, c]  # b was used by nobody
        done.set()
        process.join(60)
        store.verify(d)
        assert sorted(path.name for path in (store.path(c).parent).iterdir()) == [c, d]
    finally:
        process.kill()
        process.join()


def test_bundles_that_a_machine_publishes_keep_to_the_bound(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWO_TOWER_CACHE_GIB", str(12 / 1024))  # of two bundles, not of three
    store = open_store(s3.url)
    versions: list[str] = []
    for _ in range(4):
        versions.append(publish(store, os.urandom(5 << 20)))
        store.keep([])  # as the end of a process does
    assert sorted(path.name for path in store.path(versions[0]).parent.iterdir()) == versions[2:]
    assert store.versions() == versions


@pytest.mark.parametrize("first", ["publish", "verify"])
def test_no_other_user_can_change_the_copies(s3: S3Server, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    version = publish(open_store(s3.url))
    store = other_machine(s3, monkeypatch)
    _ = store.verify(version) if first == "verify" else publish(store)
    root = store.path(version).parent.parent
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o777)
    with pytest.raises(StoreError, match=r"other users can change its files"):
        open_store(s3.url).verify(version)


def test_a_process_that_fetches_and_hangs_is_noticed_by_those_that_wait(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(open_store(s3.url))
    store = other_machine(s3, monkeypatch)
    store.verify(version, ["query_tower/model.pb"])

    def quiet_s() -> float:
        read = store.reads.oldest()
        return time.monotonic() - read.since_s if read else 0.0

    with (
        (store.path(version).parent.parent / "locks" / f"{version}.fetch").open() as lock,
        ThreadPoolExecutor(1) as pool,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(store.verify, version)
        try:
            wait_for(lambda: quiet_s() > 3, "a wait without progress", 30)
            (store.path(version) / "vectors.npy.done").write_text("1")
            wait_for(lambda: 0 < quiet_s() < 2, "progress of the other process", 30)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        waiting.result(30)


def test_processes_of_one_machine_fetch_a_bundle_once(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(open_store(s3.url), BIG)
    other_machine(s3, monkeypatch)
    s3.faults.delay_s = 0.1
    before = len(s3.requests)
    held, done = CONTEXT.Event(), CONTEXT.Event()
    done.set()
    processes = [CONTEXT.Process(target=_hold, args=(s3.url, version, held, done)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    fetched = [request for request in s3.requests[before:] if "vectors.npy" in request]
    assert len(fetched) == 3  # parts of 8 MiB, once each
