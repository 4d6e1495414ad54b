"""The lock of a store, which one process at a time holds while it changes the store."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from retrieval.bundle.errors import StoreError
from retrieval.bundle.layout import LOCK

TIMEOUT_S = 60.0
"""Default time in seconds after which a process gives up waiting for the lock.

A promotion holds the lock for milliseconds, a prune for as long as it removes bundles.
"""

_NOTICE_S = 1.0
"""Time in seconds after which a process that waits says so."""

_PAUSE_S = 0.02
"""Pause in seconds between two tries to take the lock."""


@contextmanager
def locked(
    root: Path, on_wait: Callable[[str], None] = lambda message: None, timeout_s: float = TIMEOUT_S
) -> Generator[None]:
    """Holds the lock of a store for the length of the context.

    Args:
        root: folder of the store.
        on_wait: receives one message, which names the holder, if another process has held the lock for a second.
        timeout_s: longest wait for the lock in seconds, above 0.

    Raises:
        StoreError: the lock cannot be taken, or another process holds it for longer than `timeout_s`.
    """
    # The kernel releases the lock of a process that dies, so a killed publisher blocks nobody.
    try:
        descriptor = os.open(root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"cannot lock {root}: {error}") from error
    try:
        _wait(descriptor, root, on_wait, timeout_s)
        _write_holder(descriptor)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, root: Path, on_wait: Callable[[str], None], timeout_s: float) -> None:
    """Takes the lock. Raises StoreError as `locked` does."""
    started = time.monotonic()
    noticed = False
    while not _try_lock(descriptor, root):
        waited_s = time.monotonic() - started
        if waited_s >= timeout_s:
            raise StoreError(
                f"the lock of {root} is still held by {_read_holder(descriptor)} after {timeout_s:g} s; nothing was "
                "changed. Look whether that process works (`ps -p PID` on its host); stop it if it hangs, then try "
                "again"
            )
        if waited_s >= _NOTICE_S and not noticed:
            noticed = True
            on_wait(
                f"waiting for the lock of {root}, held by {_read_holder(descriptor)}; gives up after {timeout_s:g} s"
            )
        time.sleep(_PAUSE_S)


def _try_lock(descriptor: int, root: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(f"cannot lock {root}: {error}; its file system has to support flock") from error
    return True


def _write_holder(descriptor: int) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _read_holder(descriptor: int) -> str:
    with suppress(OSError):
        text = os.pread(descriptor, 300, 0).decode(errors="replace")
        if printable := "".join(filter(str.isprintable, text)):
            return printable
    return "an unknown process"
