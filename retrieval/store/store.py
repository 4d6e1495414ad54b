"""The store of bundles: stage, verify, promote, roll back, prune.

```
<store>/LIVE                       live version on the first line, earlier live ones below, newest first
<store>/LOCK                       held while LIVE changes or a bundle is pruned
<store>/bundles/<version>/         immutable once it has this name, but for one field, below
<store>/bundles/.staging-<version>/   being written; never read
```

Every change is a rename on one file system after an fsync: a reader sees the old state or the new one. Any number of
processes may read and write the store at once.

The one thing that changes in a bundle is `forced_gates` of its manifest, where it is promoted past publish gates that
it failed: the manifest is then replaced by a rename. So the record travels with the bundle, and a bundle made from it
has it too. No hash covers the manifest; every other file keeps its content and hash for good.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from retrieval.bundle.errors import BundleNotFound, BundleRefused, InvalidVersion, NothingToRollBack, StoreError
from retrieval.bundle.files import check_files, fsync, replace_text, sha256_of
from retrieval.bundle.layout import MANIFEST
from retrieval.bundle.manifest import FileEntry, Manifest, check_version, new_version

_STAGING = ".staging-"
_STALE_STAGING_S = 24 * 3600
_HISTORY = 20


@dataclass(frozen=True)
class LivePointer:
    """What ``LIVE`` names.

    Attributes:
        version: the bundle to serve.
        previous: those that were live before, newest first; the first one stays open beside `version`.
    """

    version: str
    previous: tuple[str, ...] = ()

    @property
    def served(self) -> tuple[str, ...]:
        """The bundles that a service keeps open: the live one, then the one before it."""
        return (self.version, *self.previous[:1])


class BundleStore:
    """A folder of bundles. Safe for use by several threads and processes at once."""

    def __init__(self, root: Path | str) -> None:
        """Takes the folder; nothing is read or made before it is needed."""
        self.root = Path(root)
        self._bundles = self.root / "bundles"
        self._live = self.root / "LIVE"

    # Reading

    def path(self, version: str) -> Path:
        """Returns the folder of a bundle, whether or not it exists.

        Raises:
            InvalidVersion: `version` is none, so that no path can lead out of the store.
        """
        return self._bundles / check_version(version)

    def versions(self) -> list[str]:
        """Returns the versions of all bundles, oldest first."""
        try:
            names = os.listdir(self._bundles)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self._bundles}: {error}") from error
        versions: list[str] = []
        for name in names:
            with suppress(InvalidVersion):
                versions.append(check_version(name))
        return sorted(versions)

    def live(self) -> LivePointer | None:
        """Returns what is live; None before the first promotion.

        Raises:
            StoreError: ``LIVE`` is unreadable or names no version.
        """
        try:
            lines = self._live.read_text(encoding="ascii").split()
            if not lines:
                raise StoreError(f"{self._live} is empty; promote a bundle to write it anew")
            return LivePointer(check_version(lines[0]), tuple(map(check_version, lines[1:])))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise StoreError(f"{self.root} is a file; a store is a folder") from error
        except (OSError, UnicodeError, InvalidVersion) as error:
            raise StoreError(f"cannot read {self._live}: {error}; promote a bundle to write it anew") from error

    def live_version(self) -> str:
        """Returns the live bundle.

        Raises:
            BundleNotFound: none is.
            StoreError: as of `live`.
        """
        pointer = self.live()
        if pointer is None:
            raise BundleNotFound(f"no bundle is live in {self.root}: publish one and promote it")
        return pointer.version

    def manifest(self, version: str) -> Manifest:
        """Returns the manifest of a bundle; its files are not looked at.

        Raises:
            BundleNotFound: there is no such bundle.
            BundleRefused: the manifest is damaged, or of another format version.
        """
        path = self.path(version) / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeError as error:
            raise BundleRefused(version, "manifest", f"{MANIFEST} is damaged ({error})") from error
        except OSError as error:
            if not self.path(version).is_dir():
                raise BundleNotFound(f"{self.root} holds no bundle {version}; it holds {self.versions()}") from error
            raise BundleRefused(version, "manifest", f"cannot read {MANIFEST}: {error}") from error
        return Manifest.from_json(text, version)

    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        """Returns the manifest of a bundle whose files are those that were published.

        Hashing reads each file once, in pieces, without the GIL, and leaves it in the page cache.

        Args:
            version: of the bundle.
            files: those whose sha256 is checked, each of which has to be listed; the others get their size checked.
                Default: all.

        Raises:
            BundleNotFound: there is no such bundle.
            BundleRefused: gate ``manifest``, ``format_version``, ``files``, ``size`` or ``sha256``.
        """
        manifest = self.manifest(version)
        check_files(self.path(version), manifest, files)
        return manifest

    # Writing

    def new_version(self) -> str:
        """Returns a version that sorts after every one in the store, even where the clock was set back."""
        versions = self.versions()
        return new_version(versions[-1] if versions else None)

    @contextmanager
    def stage(self, version: str) -> Generator[Path]:
        """Yields a new empty folder to write the files of a bundle to; removes what `commit` did not take.

        Raises:
            StoreError: the folder cannot be made, or a file could not be written meanwhile, as where the disk is full.
        """
        path = self._bundles / f"{_STAGING}{check_version(version)}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise StoreError(f"cannot write to {self.root}: {error}") from error
        try:
            yield path
        except OSError as error:
            raise StoreError(
                f"cannot write bundle {version} to {self.root}: {error}; nothing was published and what is live stays. "
                f"Free disk space (`df -h {self.root}`; `python -m trainer prune` removes old bundles), then try again"
            ) from error
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
        """Makes a staged folder a bundle, all at once, and returns its manifest.

        Args:
            staged: from `stage`, complete but for the manifest.
            describe: gets size and hash of every file by its path, returns the manifest.

        Raises:
            StoreError: the disk is full, or the bundle exists.
        """
        try:
            files = {
                path.relative_to(staged).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
                for path in sorted(staged.rglob("*"))
                if path.is_file()
            }
            manifest = describe(files)
            (staged / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            for path in staged.rglob("*"):
                fsync(path)
            fsync(staged)
            target = self.path(manifest.bundle_version)
            if target.exists():
                raise StoreError(f"bundle {manifest.bundle_version} exists already")
            os.rename(staged, target)
            fsync(self._bundles)
        except OSError as error:
            raise StoreError(f"cannot write bundle to {self.root}: {error}") from error
        return manifest

    def promote(self, version: str, *, force: bool = False, expected_live: str | None = None) -> LivePointer:
        """Makes a bundle live, after verifying it in full.

        Args:
            version: of the bundle.
            force: past the publish gates that it failed, which the manifest then records; promoting it again needs no
                force. Nothing forces a damaged bundle.
            expected_live: the bundle that has to be live still, where the new one is made from it. Default: any.

        Raises:
            BundleNotFound: there is no such bundle.
            BundleRefused: it failed a publish gate, or it is not what was published.
            StoreError: the store cannot be written, or another bundle than `expected_live` is live.
        """
        manifest = self.verify(version)
        failed = manifest.failed_gates
        if failed and not force:
            reasons = "; ".join(manifest.gates[name].message for name in failed)
            raise BundleRefused(
                version,
                ", ".join(failed),
                f"{reasons}. {self._what_stays()} The bundle is kept in {self.root} to be looked at; mend the cause "
                "and publish again, or promote it all the same with --force",
            )
        with self._lock():
            if not self.path(version).is_dir():
                raise BundleNotFound(f"bundle {version} was removed meanwhile")
            old = self._live_or_none()
            if expected_live is not None and (old is None or old.version != expected_live):
                raise StoreError(
                    f"bundle {version} was made from {expected_live}, but {old.version if old else 'nothing'} is live "
                    "now: its changes would be lost; make the bundle again, or promote this one by its version"
                )
            if failed:
                self._record_force(manifest, failed)
            return self._point(version, old)

    def roll_back(self) -> LivePointer:
        """Makes the bundle live that was live before; a roll back is not itself a step to come back to.

        Raises:
            NothingToRollBack: none was, or none is.
            BundleNotFound: it was removed.
            BundleRefused: it is damaged.
        """
        pointer = self.live()
        if pointer is None:
            raise NothingToRollBack(f"no bundle is live in {self.root}: publish one and promote it")
        if not pointer.previous:
            raise NothingToRollBack(
                "no bundle was live before the live one; list them all with `python -m trainer bundles --store "
                f"{self.root}` and promote another, or publish one"
            )
        self.verify(pointer.previous[0])
        with self._lock():
            if self.live() != pointer:
                raise StoreError("another process changed the live bundle meanwhile; look at it and try again")
            return self._write_live(LivePointer(pointer.previous[0], pointer.previous[1:]))

    def prune(self, keep: int) -> list[str]:
        """Removes the oldest bundles but `keep`, and returns their versions; never the live one or the one before it.

        Folders of publishers that died more than a day ago go as well.

        Args:
            keep: how many to leave at least, 1 or more.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        with self._lock():
            pointer = self.live()
            served = set(pointer.served) if pointer else set()
            removed = [version for version in self.versions()[:-keep] if version not in served]
            for version in removed:
                # Renamed first, so that nobody sees half a bundle; processes that mapped its files keep them.
                doomed = self._bundles / f"{_STAGING}{version}"
                os.rename(self.path(version), doomed)
                shutil.rmtree(doomed)
        for path in self._bundles.glob(f"{_STAGING}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_STAGING_S:
                    shutil.rmtree(path)
        return removed

    def _live_or_none(self) -> LivePointer | None:
        with suppress(StoreError):
            return self.live()
        return None

    def _point(self, version: str, old: LivePointer | None) -> LivePointer:
        if old is None:
            return self._write_live(LivePointer(version))
        if old.version == version:
            return old
        previous = [v for v in (old.version, *old.previous) if v != version and self.path(v).is_dir()]
        return self._write_live(LivePointer(version, tuple(previous[:_HISTORY])))

    def _what_stays(self) -> str:
        pointer = self._live_or_none()
        return f"{pointer.version} stays live." if pointer else "Nothing is live yet."

    def _record_force(self, manifest: Manifest, failed: tuple[str, ...]) -> None:
        path = self.path(manifest.bundle_version) / MANIFEST
        try:
            replace_text(path, replace(manifest, forced_gates=(*manifest.forced_gates, *failed)).to_json())
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}; what is live stays") from error

    def _write_live(self, pointer: LivePointer) -> LivePointer:
        try:
            lines = (f"{version}\n" for version in (pointer.version, *pointer.previous))
            replace_text(self._live, "".join(lines))
        except OSError as error:
            raise StoreError(f"cannot write {self._live}: {error}; what is live stays") from error
        return pointer

    @contextmanager
    def _lock(self) -> Generator[None]:
        # The lock of a process that dies is released by the kernel, so a killed publisher blocks nobody.
        try:
            descriptor = os.open(self.root / "LOCK", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"cannot lock {self.root}: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
