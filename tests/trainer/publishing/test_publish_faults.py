"""Faults of a publisher: killed, full disk, two publishers at once, clock set back; the store must stay intact.

The publishers here withdraw an item, which needs no tensorflow, so that each can be a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.errors import StoreError
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from trainer.errors import TrainerError
from trainer.publishing import catalogue_update

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@pytest.fixture
def shop_store(shop: Shop, tmp_path: Path) -> FolderStore:
    shutil.copytree(shop.store.root, tmp_path / "store")
    return FolderStore(tmp_path / "store")


def _withdraw(root: str, item_id: str) -> str:
    store = FolderStore(root)
    live = store.live()
    assert live is not None
    base = store.manifest(live.version)
    manifest = catalogue_update.publish_changes(
        store, base, catalogue_update.find_changes(store, base, None, [item_id])
    )
    store.promote(manifest.bundle_version)
    return manifest.bundle_version


def _withdraw_and_die(root: str, item_id: str, step: int) -> None:
    """Publishes and promotes; dies just before the `step`-th file is opened to write, or moved, in the store."""
    left = step

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and arguments[1] and set(str(arguments[1])) & set("wxa+")
        if (writes or event in ("os.rename", "os.mkdir")) and root in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    _withdraw(root, item_id)


def test_publisher_killed_at_any_step_leaves_a_store_that_works(shop_store: FolderStore) -> None:
    root, steps, published = str(shop_store.root), 0, 0
    while True:
        pointer, item = shop_store.live(), f"p{published:02}"
        publisher = CONTEXT.Process(target=_withdraw_and_die, args=(root, item, steps))
        publisher.start()
        publisher.join(60)
        now = shop_store.live()
        for version in shop_store.versions():
            shop_store.verify(version)  # whole, or not there at all
        if publisher.exitcode == 0:
            break
        assert publisher.exitcode == -signal.SIGKILL
        assert now == pointer or now.previous[0] == pointer.version
        published += now != pointer
        steps += 1
    # Folders, copies, vectors, items, golden queries, evaluation, manifest, and the renames of bundle and LIVE.
    assert steps > 15
    assert now.previous[0] == pointer.version
    assert _withdraw(root, "p39") == shop_store.live().version


def _withdraw_with_little_room(root: str, limit_bytes: int, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        _withdraw(root, "p00")
    except (StoreError, TrainerError) as error:
        told.put(str(error))


@pytest.mark.parametrize("limit_bytes", [0, 700, 5_000, 20_000])
def test_full_disk_is_told_and_changes_nothing(shop_store: FolderStore, limit_bytes: int) -> None:
    versions, pointer, told = shop_store.versions(), shop_store.live(), CONTEXT.SimpleQueue()
    publisher = CONTEXT.Process(target=_withdraw_with_little_room, args=(str(shop_store.root), limit_bytes, told))
    publisher.start()
    publisher.join(60)
    assert publisher.exitcode == 0
    assert "cannot write" in told.get()
    assert (shop_store.versions(), shop_store.live()) == (versions, pointer)
    assert sorted(path.name for path in (shop_store.root / "bundles").iterdir()) == versions


PUBLISH = """
import resource, sys
from trainer.__main__ import main

for limit in (1_000, 6_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        main()
    except SystemExit as exit:
        print("exit code", exit.code)
"""
"""Publishes twice, with room for files of some bytes each; one process, as it takes seconds to begin."""


def test_full_disk_at_a_publish_of_a_run(shop: Shop, shop_store: FolderStore) -> None:
    versions, pointer = shop_store.versions(), shop_store.live()
    # In a process of its own: the limit holds for the log of the tests too.
    publish = ["publish", str(shop.runs[1]), "--store", str(shop_store.root), "--promote"]
    publisher = subprocess.run([sys.executable, "-c", PUBLISH, *publish], capture_output=True, text=True, check=False)
    assert publisher.stdout.splitlines() == ["exit code 1"] * 2, publisher.stderr
    assert publisher.stderr.count("cannot write") == 2
    assert (shop_store.versions(), shop_store.live()) == (versions, pointer)
    assert sorted(path.name for path in (shop_store.root / "bundles").iterdir()) == versions


def test_two_publishers_at_once_end_with_two_bundles(shop_store: FolderStore) -> None:
    before = shop_store.versions()
    publishers = [CONTEXT.Process(target=_withdraw, args=(str(shop_store.root), item)) for item in ("p01", "p02")]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(60)
    assert [publisher.exitcode for publisher in publishers] == [0, 0]
    new = sorted(set(shop_store.versions()) - set(before))
    assert len(new) == 2
    for version in new:
        shop_store.verify(version)
    pointer = shop_store.live()
    assert {pointer.version, pointer.previous[0]} == set(new)


def test_bundle_made_after_the_clock_was_set_back_is_the_newest(shop_store: FolderStore) -> None:
    live = shop_store.live().version
    future = "29990101T000000Z-00000a"
    shutil.copytree(shop_store.path(live), shop_store.path(future))
    path = shop_store.path(future) / "manifest.json"
    path.write_text(replace(shop_store.manifest(live), bundle_version=future).to_json())
    version = _withdraw(str(shop_store.root), "p01")
    assert version > future
    assert shop_store.versions()[-1] == version == shop_store.live().version
