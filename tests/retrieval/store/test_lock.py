"""The lock of a store: who waits for it says so and for whom, and gives up in the end."""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.errors import StoreError
from retrieval.store.folder_store import FolderStore
from retrieval.store.live import LivePointer
from retrieval.store.lock import locked
from tests.retrieval.store.test_store import publish
from tests.worlds import wait_for

CONTEXT = multiprocessing.get_context("spawn")


def _hold(root: str, holds: Any, release: Any) -> None:
    with locked(Path(root)):
        holds.set()
        release.wait(60)


@contextmanager
def held(store: FolderStore) -> Iterator[tuple[int, Any]]:
    """Holds the lock in another process; yields its id, and the event that lets it go."""
    holds, release = CONTEXT.Event(), CONTEXT.Event()
    holder = CONTEXT.Process(target=_hold, args=(str(store.root), holds, release))
    holder.start()
    try:
        assert holds.wait(30)
        assert holder.pid is not None
        yield holder.pid, release
    finally:
        release.set()
        holder.join()


def test_waiting_names_the_holder_once_and_goes_on_when_it_lets_go(store: FolderStore) -> None:
    version = publish(store)
    messages: list[str] = []
    with held(store) as (pid, release):
        waiting = FolderStore(store.root, tell=messages.append)
        promotion = threading.Thread(target=waiting.promote, args=(version,))
        promotion.start()
        wait_for(lambda: messages, "it says that it waits")
        assert store.live() is None
        release.set()
        promotion.join()
    assert store.live() == LivePointer(version)
    [message] = messages
    assert message.startswith(
        f"waiting for the lock of {store.root}, held by process {pid} on {socket.gethostname()} since 20"
    )
    assert (store.root / "LOCK").read_text() == ""


def test_gives_up_in_the_end_and_changes_nothing(store: FolderStore) -> None:
    version = publish(store)
    with held(store) as (pid, _):
        for change in ("promote", "prune"):
            hasty = FolderStore(store.root, lock_timeout_s=0.1)
            with pytest.raises(StoreError, match=rf"still held by process {pid} on .* after 0\.1 s"):
                hasty.promote(version) if change == "promote" else hasty.prune(1)
        assert f"process {pid} " in (store.root / "LOCK").read_text()
    assert (store.live(), store.versions()) == (None, [version])


def test_name_of_a_holder_is_printable(store: FolderStore) -> None:
    publish(store)
    with held(store):
        (store.root / "LOCK").write_bytes(b"\x1b[31mprocess 7\xff on x\n" * 100)
        with pytest.raises(StoreError) as refused:
            FolderStore(store.root, lock_timeout_s=0.1).prune(1)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 700


def test_lock_is_free_after_an_error(store: FolderStore) -> None:
    publish(store)
    with pytest.raises(ZeroDivisionError), locked(store.root):
        raise ZeroDivisionError
    with locked(store.root, timeout_s=0.1):
        pass


def _promote_on_a_full_disk(root: str, version: str, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # every write fails, as on a full disk
    try:
        FolderStore(root).promote(version)
    except StoreError as error:
        told.put(str(error))


def test_full_disk_at_a_promotion_leaves_the_live_bundle(store: FolderStore) -> None:
    old = publish(store)
    store.promote(old)
    new, told = publish(store), CONTEXT.SimpleQueue()
    before = sorted(os.listdir(store.root))
    promotion = CONTEXT.Process(target=_promote_on_a_full_disk, args=(str(store.root), new, told))
    promotion.start()
    promotion.join(60)
    assert promotion.exitcode == 0
    assert f"cannot write {store.root / 'LIVE'}" in told.get()
    assert store.live() == LivePointer(old)
    assert sorted(os.listdir(store.root)) == before
    assert store.promote(new) == LivePointer(new, (old,))
