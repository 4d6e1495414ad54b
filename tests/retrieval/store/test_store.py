"""The store: no reader sees an incomplete bundle, even if publishers are killed or several write at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.errors import BundleNotFound, BundleRefused, InvalidVersion, NothingToRollBack, StoreError
from retrieval.bundle.manifest import FileEntry, IndexSpec, Manifest
from retrieval.store.folder_store import FolderStore
from retrieval.store.live import LivePointer
from retrieval.store.lock import locked
from retrieval.store.store import BundleStore

CONTEXT = multiprocessing.get_context("spawn")


def describe(version: str, files: dict[str, FileEntry]) -> Manifest:
    index = IndexSpec("annoy", "angular", {}, 1, 1.0)
    return Manifest(version, version, None, 2, 1, index, {}, {}, files, {}, 1, "", {})


def publish(store: BundleStore, content: bytes = b"vectors", version: str = "") -> str:
    version = version or store.new_version()
    with store.stage(version) as folder:
        (folder / "query_tower").mkdir()
        (folder / "vectors.npy").write_bytes(content)
        (folder / "query_tower" / "model.pb").write_bytes(b"model")
        store.commit(folder, lambda files: describe(version, files))
    return version


def test_published_bundle_is_whole(store: FolderStore) -> None:
    version = publish(store)
    manifest = store.verify(version)
    # sha256 of b"model", by sha256sum.
    assert manifest.files["query_tower/model.pb"] == FileEntry(
        5, "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    )
    assert sorted(manifest.files) == ["query_tower/model.pb", "vectors.npy"]
    assert os.listdir(store.root / "bundles") == [version]


def test_store_is_empty_before_the_first_publish(store: FolderStore) -> None:
    assert (store.versions(), store.live()) == ([], None)
    with pytest.raises(BundleNotFound):
        store.manifest("20260101T000000Z-000000")
    with pytest.raises(NothingToRollBack, match="there is no store at"):
        store.roll_back()


def test_promotes_and_rolls_back(any_store: BundleStore) -> None:
    a, b, c = publish(any_store), publish(any_store), publish(any_store)
    assert a < b < c
    assert any_store.promote(a).open_versions == (a,)
    assert any_store.promote(b).open_versions == (b, a)
    assert any_store.promote(c) == LivePointer(c, (b, a))
    assert any_store.live() == LivePointer(c, (b, a))
    assert any_store.roll_back() == LivePointer(b, (a,))
    assert any_store.roll_back() == LivePointer(a)
    with pytest.raises(NothingToRollBack, match="no bundle was live before"):
        any_store.roll_back()


def test_changes_what_is_live_only_if_it_is_as_expected(any_store: BundleStore) -> None:
    a, b, c = publish(any_store), publish(any_store), publish(any_store)
    with pytest.raises(StoreError, match=f"nothing is live now, and not {b}"):
        any_store.promote(a, expected_live=b)
    any_store.promote(a, expected_live="")
    with pytest.raises(StoreError, match=f"{a} is live now, and not nothing"):
        any_store.promote(b, expected_live="")
    any_store.promote(b, expected_live=a)
    any_store.promote(c)
    for expected in ((b, a), (c, a)):
        with pytest.raises(StoreError, match=f"{c} after {b} is live now"):
            any_store.roll_back(expected=expected)
    assert any_store.roll_back(expected=(c, b)) == LivePointer(b, (a,))


def test_live_version_without_a_live_bundle_is_an_error(store: FolderStore) -> None:
    with pytest.raises(BundleNotFound, match=r"there is no store at .*: check the path"):
        store.live_version()
    store.root.mkdir(parents=True)
    with pytest.raises(BundleNotFound, match=r"no bundle is live in .*: publish one and promote it"):
        store.live_version()
    store.promote(version := publish(store))
    assert store.live_version() == version


def test_promoting_the_live_bundle_again_changes_nothing(any_store: BundleStore) -> None:
    a, b = publish(any_store), publish(any_store)
    any_store.promote(a)
    any_store.promote(b)
    assert any_store.promote(b) == LivePointer(b, (a,))
    assert any_store.promote(a) == LivePointer(a, (b,))


def test_damaged_bundle_is_never_promoted(store: FolderStore) -> None:
    good, bad = publish(store), publish(store)
    store.promote(good)
    (store.path(bad) / "vectors.npy").write_bytes(b"vectorz")
    with pytest.raises(BundleRefused) as caught:
        store.promote(bad)
    assert caught.value.gate == "sha256"
    (store.path(bad) / "vectors.npy").write_bytes(b"vector")
    with pytest.raises(BundleRefused, match=r"6 bytes, expected 7 bytes"):
        store.promote(bad)
    assert store.live() == LivePointer(good)


def test_verify_hashes_only_the_named_files(store: FolderStore) -> None:
    version = publish(store)
    (store.path(version) / "vectors.npy").write_bytes(b"vectorz")  # of the same size
    store.verify(version, ["query_tower/model.pb"])
    with pytest.raises(BundleRefused) as caught:
        store.verify(version, ["index.ann"])
    assert caught.value.gate == "files"


def test_versions_rise_even_when_the_clock_is_set_back(any_store: BundleStore) -> None:
    publish(any_store, version="29991231T235958Z-ffffff")
    assert re.fullmatch(r"29991231T235959Z-[0-9a-f]{6}", any_store.new_version())


def test_staging_that_fails_leaves_nothing(store: FolderStore) -> None:
    def fail() -> None:
        with store.stage(store.new_version()) as folder:
            (folder / "big").write_bytes(b"x")
            raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        fail()
    assert os.listdir(store.root / "bundles") == []


def test_nothing_is_overwritten(any_store: BundleStore) -> None:
    version = publish(any_store)
    with pytest.raises(StoreError, match="exists already"):
        publish(any_store, b"other", version)
    any_store.verify(version)


@pytest.mark.parametrize("version", ["../../etc", "", ".", "a/b", "20260101T000000Z-00000g"])
def test_no_version_leads_out_of_the_store(any_store: BundleStore, version: str) -> None:
    for call in (any_store.path, any_store.manifest, any_store.verify, any_store.promote):
        with pytest.raises(InvalidVersion):
            call(version)


@pytest.mark.parametrize("content", [b"", b"rubbish\n", b"../../etc\n", b"\xff\xfe"])
def test_unreadable_live_file_is_an_error_until_the_next_promotion(store: FolderStore, content: bytes) -> None:
    version = publish(store)
    (store.root / "LIVE").write_bytes(content)
    with pytest.raises(StoreError, match="promote a bundle"):
        store.live()
    assert store.promote(version) == LivePointer(version)


def test_prune_keeps_the_newest_the_live_and_the_one_before(any_store: BundleStore) -> None:
    a, b, c, d, e = (publish(any_store) for _ in range(5))
    any_store.promote(a)
    any_store.promote(b)
    assert any_store.prune(keep=1) == [c, d]
    assert any_store.versions() == [a, b, e]
    with pytest.raises(ValueError, match="keep is 0"):
        any_store.prune(keep=0)


def test_prune_leaves_a_bundle_that_is_being_written(store: FolderStore) -> None:
    publish(store)
    with store.stage(store.new_version()) as folder:
        store.prune(keep=1)
        assert folder.is_dir()


def _publish_and_promote(root: str, count: int) -> None:
    store = FolderStore(root)
    for _ in range(count):
        store.promote(publish(store))


def test_many_publishers_at_once_lose_nothing(store: FolderStore) -> None:
    publishers = [CONTEXT.Process(target=_publish_and_promote, args=(str(store.root), 8)) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    while any(publisher.is_alive() for publisher in publishers):
        pointer = store.live()  # readable at every moment
        if pointer is not None:
            store.verify(pointer.version)
        publishers[0].join(0.001)
    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    pointer = store.live()
    assert pointer is not None
    # The pointer keeps 20 earlier versions beside the live one, so the oldest promotions are dropped.
    assert len({pointer.version, *pointer.previous}) == 21
    assert len(store.versions()) == 24
    assert sorted(path.name for path in store.root.iterdir()) == ["LIVE", "LOCK", "bundles"]


def _die_while_staging(root: str, ready: Any) -> None:
    store = FolderStore(root)
    with store.stage(store.new_version()) as folder:
        (folder / "vectors.npy").write_bytes(b"half")
        ready.set()
        signal.pause()


def _die_in_the_lock(root: str, ready: Any) -> None:
    with locked(Path(root)):
        ready.set()
        signal.pause()


@pytest.mark.parametrize("die", [_die_while_staging, _die_in_the_lock])
def test_killed_publisher_leaves_no_half_bundle_and_blocks_nobody(store: FolderStore, die: Any) -> None:
    old = publish(store)
    store.promote(old)
    ready = CONTEXT.Event()
    publisher = CONTEXT.Process(target=die, args=(str(store.root), ready))
    publisher.start()
    assert ready.wait(30)
    publisher.kill()
    publisher.join()
    assert store.versions() == [old]
    assert store.live() == LivePointer(old)
    new = publish(store)
    assert store.promote(new) == LivePointer(new, (old,))


def test_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = FolderStore(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot write"), store.stage("20260101T000000Z-000000"):
        pass
    with pytest.raises(StoreError, match="cannot list"):
        store.versions()
