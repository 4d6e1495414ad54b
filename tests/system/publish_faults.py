"""Part of the soak: faults of publishers. The store must stay readable, and the live bundle live.

The faults: a publisher is killed, the disk is full, two publishers run at once, and the clock is set back. The
publishers withdraw an item with `python -m trainer add-items`, which takes a second.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS, MANIFEST
from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT

Result = tuple[str, str, str, bool]


def run(store: FolderStore, folder: Path, versions: Sequence[str], times: int) -> list[Result]:
    """Causes each fault `times` times, and returns one table row for each kind of fault; the store is restored."""
    store.promote(versions[0])
    return [
        _kill_publishers(store, folder, times),
        _fill_disk(store, times),
        _publish_at_once(store, versions[0], times),
        _set_clock_back(store, versions[0], times),
    ]


def _kill_publishers(store: FolderStore, folder: Path, times: int) -> Result:
    """Kills a publisher after a random time: the store must stay readable, and the live bundle live."""
    chance = random.Random(11)
    live = store.live()
    before = set(store.versions())
    run = folder / "runs" / "seed-1"
    command = [sys.executable, "-m", "trainer", "publish", str(run), "--store", str(store.root)]
    whole = 0
    for _ in range(times):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 8.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for version in set(store.versions()) - before:
            store.verify(version)  # raises if an incomplete bundle has the name of a complete one
            whole += 1
            shutil.rmtree(store.path(version))
    pointer = store.live()
    seen = f"{times} killed, {whole} had finished, live {'unchanged' if pointer == live else 'CHANGED'}"
    for staging in (store.root / "bundles").glob(".staging-*"):
        shutil.rmtree(staging)
    return ("publisher killed", "store readable, live unchanged", seen, pointer == live)


def _fill_disk(store: FolderStore, times: int) -> Result:
    """Simulates a full disk during a publish by a limit on file sizes: it must fail and leave no file in the store."""
    chance = random.Random(13)
    live, before = store.live(), store.versions()
    refused = unchanged = 0
    for _ in range(times):
        done = _withdraw(store, _items(store)[0], chance.randrange(2, 600)).communicate()[1]
        told = b"error: cannot write" in done
        refused += told
        if not told:
            print(f"not refused as expected: {done.decode(errors='replace')[-2000:]}")
        unchanged += store.live() == live and store.versions() == before
    seen = f"{refused} refused with a reason, {unchanged} left the store as it was"
    return ("disk full at publish", f"{times} refused, store as it was", seen, refused == unchanged == times)


def _publish_at_once(store: FolderStore, base: str, times: int) -> Result:
    """Starts two publishers at once: the live bundle must be complete, and be one of the two or the base."""
    sound = 0
    before = set(store.versions())
    for _ in range(times):
        items = _items(store)
        both = [_withdraw(store, item) for item in items[:2]]
        for publisher in both:
            publisher.communicate()
        made = set(store.versions()) - before
        for version in made:
            store.verify(version)
        pointer = store.live()
        sound += pointer is not None and pointer.version in made and len(made) in (1, 2)
        store.promote(base)
        for version in made:
            shutil.rmtree(store.path(version))
    seen = f"{sound} times a whole bundle of one of the two went live"
    return ("two publishers at once", f"{times} times one goes live", seen, sound == times)


def _set_clock_back(store: FolderStore, base: str, times: int) -> Result:
    """Publishes after a bundle with a version in the future: the new version must sort after it and go live."""
    sound = 0
    before = set(store.versions())
    for number in range(times):
        future = copy(store, base, f"2999010{1 + number % 9}T000000Z-{number:06x}")
        _withdraw(store, _items(store)[0]).communicate()
        newest, pointer = store.versions()[-1], store.live()
        sound += newest > future and pointer is not None and pointer.version == newest
        store.promote(base)
        for version in set(store.versions()) - before:
            shutil.rmtree(store.path(version))
    seen = f"{sound} times the newest bundle sorts last and is live"
    return ("clock set back before a publish", f"{times} times newest is last and live", seen, sound == times)


def copy(store: FolderStore, version: str, name: str) -> str:
    """Copies the files of the bundle `version` to a new bundle of version `name`, and returns `name`."""
    shutil.copytree(store.path(version), store.path(name))
    manifest = store.path(name) / MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"bundle_version": "{version}"', f'"bundle_version": "{name}"'))
    return name


def _withdraw(store: FolderStore, item: str, size_limit_blocks: int | None = None) -> subprocess.Popen[bytes]:
    """Starts a publisher that withdraws an item, and returns its process.

    Args:
        store: store to publish to.
        item: id of the item.
        size_limit_blocks: largest size of a file in blocks of 512 bytes; a write beyond it fails, as on a full disk.
            None: no limit.
    """
    command = [
        sys.executable,
        "-m",
        "trainer",
        "add-items",
        "--store",
        str(store.root),
        "--remove-id",
        item,
        "--promote",
    ]
    if size_limit_blocks is not None:
        # With a shell, because Python code between fork and exec is not safe in a process with the threads of gRPC.
        command = ["sh", "-c", 'ulimit -f "$0" && exec "$@"', str(size_limit_blocks), *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _items(store: FolderStore) -> Sequence[str]:
    pointer = store.live()
    if pointer is None:
        raise RuntimeError("nothing is live")
    return ItemTable.read(store.path(pointer.version) / ITEMS, {}).ids
