"""The copies of bundles that this machine keeps of a store elsewhere, within a bound.

```
<cache>/ROOM                          held while room is made or taken
<cache>/bundles/<version>/            verified files of a bundle; any part of them
<cache>/bundles/<version>/NAME.part   a file that is being fetched, of its final size
<cache>/bundles/<version>/NAME.done   number of bytes of it that have been fetched
<cache>/locks/<version>.use           held, shared, by every process that uses the bundle
<cache>/locks/<version>.fetch         held by the process that fetches files of the bundle
```

All processes of a machine share the folder. The kernel releases the locks of a process that dies. A file takes its
whole size on disk before it is fetched, so that the bound and a full disk are noticed before the work.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval.bundle.errors import BundleRefused, InvalidVersion, StoreError
from retrieval.bundle.layout import BUNDLES
from retrieval.bundle.manifest import check_version

_PAUSE_S = 0.1
"""Pause in seconds between two tries to take the lock of a fetch."""

_LOCKS = "locks"


class Cache:
    """A folder of copies. Safe for use by several threads and processes at once.

    Attributes:
        root: Folder of the cache.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        """Takes the folder, which is made by the first use, and the most that its bundles may take on disk."""
        self.root = root
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def path(self, version: str) -> Path:
        """Returns the folder of a bundle, whether or not it exists. Raises InvalidVersion."""
        return self.root / BUNDLES / check_version(version)

    def use(self, version: str) -> None:
        """Keeps a bundle from being removed, until `keep` is called without it. Raises StoreError."""
        with self._lock:
            if version not in self._used:
                descriptor = self._open_lock(f"{check_version(version)}.use")
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                os.utime(descriptor)  # the bundles that were used last are removed last
                self._used[version] = descriptor

    def keep(self, versions: Collection[str]) -> None:
        """Lets go of all bundles but `versions`."""
        with self._lock:
            for version in self._used.keys() - set(versions):
                os.close(self._used.pop(version))

    @contextmanager
    def fetching(self, version: str, progress: Callable[[], None]) -> Generator[None]:
        """Holds the right to fetch files of a bundle for the length of the context.

        Args:
            version: version of the bundle.
            progress: called whenever another process, which holds it, has got further.

        Raises:
            StoreError: the folder cannot be written.
        """
        descriptor = self._open_lock(f"{check_version(version)}.fetch")
        seen = -1
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                written = _last_write_ns(self.path(version))
                if written != seen:
                    seen = written
                    progress()
                time.sleep(_PAUSE_S)
            yield
        finally:
            os.close(descriptor)

    def take_room(self, version: str, sizes: dict[str, int]) -> None:
        """Gives each file its size on disk, after removing bundles that no process uses if need be.

        Args:
            version: version of a bundle that this process uses.
            sizes: sizes in bytes of the files to be fetched, by path in the bundle.

        Raises:
            BundleRefused: gate ``disk``: the bound or the disk does not leave so much room.
            StoreError: the folder cannot be written.
        """
        folder = self.path(version)
        with self._holding_room():
            missing = {name: size for name, size in sizes.items() if not _has_size(part_of(folder / name), size)}
            needed = sum(missing.values())
            if not self._make_room(needed):
                raise BundleRefused(
                    version,
                    "disk",
                    f"its files need {needed >> 20} MiB on disk; {self.root} may take {self._limit_bytes >> 20} MiB, "
                    f"of which bundles in use take {_size_of(self.root / BUNDLES) >> 20} MiB, and its disk has "
                    f"{shutil.disk_usage(self.root).free >> 20} MiB left. Raise TWO_TOWER_CACHE_GIB, or name another "
                    "folder in TWO_TOWER_CACHE",
                )
            for name, size in missing.items():
                part = part_of(folder / name)
                part.parent.mkdir(parents=True, exist_ok=True)
                done_of(folder / name).unlink(missing_ok=True)
                with part.open("wb") as file:
                    if size:
                        os.posix_fallocate(file.fileno(), 0, size)

    def trim(self) -> None:
        """Removes bundles that no process uses while all take more than the bound. Raises StoreError."""
        with self._holding_room():
            self._make_room(0)

    def make_folder(self) -> None:
        """Makes the folder, if need be, which other users cannot change, since services open what is in it.

        Raises:
            StoreError: the folder cannot be made, or other users can change it.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.root.stat()
        except OSError as error:
            raise StoreError(
                f"cannot write to the cache {self.root}: {error}; name another in TWO_TOWER_CACHE"
            ) from error
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
            raise StoreError(
                f"cannot use the cache {self.root}: other users can change its files, which services would open; "
                "remove it, or name another in TWO_TOWER_CACHE"
            )

    @contextmanager
    def _holding_room(self) -> Generator[None]:
        """Lets one process at a time make or take room. Turns errors of the disk within the context into StoreError."""
        lock = self._open_lock("ROOM")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise StoreError(f"cannot write to the cache {self.root}: {error}") from error
        finally:
            os.close(lock)

    def _make_room(self, needed: int) -> bool:
        """Removes bundles that no process uses until there is room, and returns whether there is."""
        for oldest in self._by_last_use():
            if self._has_room(needed):
                break
            self._remove_unused(oldest)
        return self._has_room(needed)

    def _has_room(self, needed: int) -> bool:
        return (
            _size_of(self.root / BUNDLES) + needed <= self._limit_bytes and needed <= shutil.disk_usage(self.root).free
        )

    def _by_last_use(self) -> list[str]:
        """Returns the versions in the cache, the one that was used last at the end."""
        found: list[tuple[float, str]] = []
        for folder in (self.root / BUNDLES).glob("*"):
            with suppress(InvalidVersion, FileNotFoundError):
                lock = self.root / _LOCKS / f"{check_version(folder.name)}.use"
                found.append(((lock if lock.exists() else folder).stat().st_mtime, folder.name))
        return [version for _, version in sorted(found)]

    def _remove_unused(self, version: str) -> None:
        descriptor = self._open_lock(f"{version}.use")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path(version), ignore_errors=True)
        except BlockingIOError:
            pass  # a process uses it
        finally:
            os.close(descriptor)

    def _open_lock(self, name: str) -> int:
        self.make_folder()
        folder = self.root if name == "ROOM" else self.root / _LOCKS
        try:
            folder.mkdir(exist_ok=True)
            return os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot write to the cache {self.root}: {error}; name another in TWO_TOWER_CACHE"
            ) from error


def part_of(path: Path) -> Path:
    """Returns the path of the file while it is being fetched."""
    return path.with_name(f"{path.name}.part")


def done_of(path: Path) -> Path:
    """Returns the path of the file that has the number of bytes that have been fetched."""
    return path.with_name(f"{path.name}.done")


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _last_write_ns(folder: Path) -> int:
    """Returns the time of the last write to a file below a folder; 0 if there is none."""
    last = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            last = max(last, path.stat().st_mtime_ns)
    return last


def _size_of(folder: Path) -> int:
    """Returns the size in bytes of all files below a folder, those left out that vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
