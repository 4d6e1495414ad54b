"""The store in a bucket: races, faults on the way, and the copies on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrieval.bundle.errors import BundleNotFound, BundleRefused, StoreError
from retrieval.store.live import LivePointer
from retrieval.store.location import open_store
from retrieval.store.store import BundleStore
from testbed.s3_server import S3Server
from tests.retrieval.store.test_store import publish
from tests.worlds import wait_for

ROUNDS = int(os.environ.get("STORE_ROUNDS", "10"))  # the long form has 100
BIG = os.urandom(20 << 20)  # three parts of 8 MiB, the last of them short


def other_machine(s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str = "other") -> BundleStore:
    """Returns the store as another machine sees it: without copies."""
    monkeypatch.setenv("TWO_TOWER_CACHE", str(s3.cache.with_name(name)))
    return open_store(s3.url)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_bundle_is_the_same_on_another_machine(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(open_store(s3.url), BIG)
    other = other_machine(s3, monkeypatch)
    assert other.versions() == [version]
    other.verify(version, ["query_tower/model.pb"])
    assert files_below(other.path(version)) == ["query_tower/model.pb"]  # what is not read is not fetched
    other.verify(version)
    assert (other.path(version) / "vectors.npy").read_bytes() == BIG
    before = len(s3.requests)
    other.verify(version)
    fetched = [request.rsplit("/", 1)[1] for request in s3.requests[before:] if "list-type" not in request]
    assert fetched == ["manifest.json"]  # nothing twice


def test_a_bundle_without_a_manifest_does_not_exist(s3: S3Server) -> None:
    store = open_store(s3.url)
    version = publish(store)
    s3.object(f"bundles/{version}/manifest.json").unlink()
    assert store.versions() == []
    with pytest.raises(BundleNotFound, match="holds no bundle"):
        store.promote(version)


def test_damage_in_the_bucket_is_refused_and_mended_by_a_new_upload(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(open_store(s3.url))
    s3.object(f"bundles/{version}/vectors.npy").write_bytes(b"vectorz")
    other = other_machine(s3, monkeypatch)
    with pytest.raises(BundleRefused) as caught:
        other.promote(version)
    assert caught.value.gate == "sha256"
    assert other.live() is None
    s3.object(f"bundles/{version}/vectors.npy").write_bytes(b"vectors")
    assert other.promote(version) == LivePointer(version)


def test_what_the_bucket_lost_is_not_promoted_from_a_copy(s3: S3Server) -> None:
    store = open_store(s3.url)
    version = publish(store)
    s3.object(f"bundles/{version}/vectors.npy").write_bytes(b"half")
    with pytest.raises(BundleRefused, match=r"gate size: vectors.npy: 4 bytes in s3://.*, expected 7 bytes"):
        store.promote(version)
    s3.object(f"bundles/{version}/vectors.npy").unlink()
    with pytest.raises(BundleRefused, match=r"gate size: vectors.npy: no object in s3://"):
        store.promote(version)
    assert store.live() is None


def test_a_huge_manifest_is_refused_and_a_huge_pointer_is_replaced(s3: S3Server) -> None:
    store = open_store(s3.url)
    huge, version = publish(store), publish(store)
    s3.object(f"bundles/{huge}/manifest.json").write_bytes(bytes(5 << 20))
    with pytest.raises(BundleRefused, match=r"gate manifest: .* has more than 4194304 bytes"):
        store.manifest(huge)
    store.promote(version)
    s3.object("LIVE").write_bytes(bytes(70_000))
    with pytest.raises(StoreError, match=r"LIVE has more than 65536 bytes, .*; promote a bundle to write it anew"):
        store.live()
    assert store.promote(version) == LivePointer(version)
    assert store.prune(1) == [huge]


def test_of_two_publishers_one_wins_and_the_other_is_told(s3: S3Server) -> None:
    first, second = open_store(s3.url), open_store(s3.url)
    versions = [publish(first), publish(first)]
    lost = 0
    s3.faults.delay_s = 0.03  # so that both read before one writes
    for _ in range(ROUNDS):
        barrier = threading.Barrier(2)

        def promote(store: BundleStore, version: str, barrier: threading.Barrier = barrier) -> str:
            store.verify(version)
            barrier.wait(20)
            try:
                return store.promote(version).version
            except StoreError as error:
                return str(error)

        before = first.live()
        turn = versions if before is None or before.version == versions[0] else versions[::-1]
        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(promote, (first, second), turn))
        live = first.live()
        assert live is not None
        assert live.version in won
        assert all(result in versions or "was first" in result for result in won), won
        lost += sum("was first" in result for result in won)
        if before is not None:
            assert before.version in (live.version, *live.previous)  # nothing is lost
    assert lost > 0  # else no two promotions ever met


def test_a_bundle_that_goes_live_while_it_is_pruned_is_whole_or_gone(s3: S3Server) -> None:
    store = open_store(s3.url)
    base = publish(store)
    store.promote(base)
    for round_number in range(ROUNDS):
        old, new = publish(store), publish(store)
        s3.faults.delay_s = 0.01 * (round_number % 4)
        with ThreadPoolExecutor(2) as pool:
            promotion = pool.submit(open_store(s3.url).promote, old)
            removal = pool.submit(open_store(s3.url).prune, 1)
            error, removed = promotion.exception(30), removal.result(30)
        s3.faults.delay_s = 0.0
        if error is None:
            assert store.live() == LivePointer(old, (base,))
            assert old not in removed
            store.verify(old)
            store.roll_back()
        else:
            assert isinstance(error, (BundleNotFound, BundleRefused, StoreError)), error
        assert store.live() == LivePointer(base)
        assert {base, new} <= set(store.versions())


def test_half_answers_and_refusals_are_asked_for_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(open_store(s3.url), BIG)
    other = other_machine(s3, monkeypatch)
    s3.faults.refuse, s3.faults.cut = 3, 3
    other.verify(version)
    assert (s3.faults.refuse, s3.faults.cut) == (0, 0)
    assert (other.path(version) / "vectors.npy").read_bytes() == BIG


def test_a_download_goes_on_where_the_server_died(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(60 << 20)
    version = publish(open_store(s3.url), content)
    other = other_machine(s3, monkeypatch)
    s3.faults.delay_s = 0.05
    kills = 0
    with ThreadPoolExecutor(1) as pool:
        while True:
            done = pool.submit(other.verify, version)
            before = sum("vectors.npy" in request for request in s3.requests)
            while not done.done() and sum("vectors.npy" in request for request in s3.requests) < before + 3:
                time.sleep(0.002)
            s3.kill()
            kills += 1
            time.sleep(0.2)
            s3.start()
            try:
                done.result(120)
            except StoreError:
                continue
            break
    assert (other.path(version) / "vectors.npy").read_bytes() == content
    assert kills >= 1


def test_what_is_wrong_is_said(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3.url)
    version = publish(store)
    with pytest.raises(StoreError, match=r"there is no such bucket: check the URL"):
        open_store("s3://elsewhere/store").live()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"cannot read .*/LIVE: SignatureDoesNotMatch.*check the credentials"):
        open_store(s3.url).live()
    s3.kill()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot read s3://bundles/shop/store/LIVE"):
        store.live()
    assert time.monotonic() - began < 25  # bounded, not a measurement
    s3.start()
    assert store.promote(version) == LivePointer(version)


def test_ctrl_c_in_a_download_that_hangs_ends_at_once(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(open_store(s3.url), BIG)
    other_machine(s3, monkeypatch)
    s3.faults.delay_s = 0.5
    before = len(s3.requests)
    command = [sys.executable, "-m", "trainer", "promote", version, "--store", s3.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any("vectors.npy" in request for request in s3.requests[before:]), "a download", 60)
            s3.faults.frozen = True
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)  # a part is given up after 60 s
        finally:
            process.kill()
            s3.faults.frozen = False
    assert (process.returncode, "Traceback" in told) == (130, False)


def test_a_roll_back_fetches_nothing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3.url)
    old, new = publish(store), publish(store)
    store.promote(old)
    store.promote(new)
    other = other_machine(s3, monkeypatch)
    before = len(s3.requests)
    assert other.roll_back() == LivePointer(old)
    assert not any("vectors.npy" in request for request in s3.requests[before:])
    store.promote(new)
    s3.object(f"bundles/{old}/vectors.npy").unlink()
    with pytest.raises(BundleRefused, match=r"vectors\.npy: no object"):
        other.roll_back()
    assert other.live() == LivePointer(new, (old,))
