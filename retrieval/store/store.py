"""The store of bundles: stage, verify, promote, roll back, prune.

```
<store>/LIVE                          live version on the first line, earlier live versions below, newest first
<store>/LOCK                          held while LIVE changes or a bundle is pruned
<store>/bundles/<version>/            a bundle: immutable, except for one field, below
<store>/bundles/.staging-<version>/   a bundle that is being written or removed; never read
```

Every change is an fsync followed by a rename on one file system, so that a reader sees either the old state or the new
one. Any number of processes may read and write the store at once.

Only one field of a bundle ever changes: `forced_gates` of its manifest, when the bundle is promoted in spite of failed
publish gates. The manifest is then replaced by a rename. So the record travels with the bundle, and a bundle that is
made from it inherits the record. The manifest has no hash; every other file keeps its content and hash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from retrieval.bundle.errors import BundleNotFound, BundleRefused, InvalidVersion, NothingToRollBack, StoreError
from retrieval.bundle.files import check_files, read_text, replace_text
from retrieval.bundle.layout import BUNDLES, LIVE, MANIFEST
from retrieval.bundle.manifest import FileEntry, Manifest, check_version, new_version
from retrieval.store import staging
from retrieval.store.live import LivePointer, read_live, write_live
from retrieval.store.lock import TIMEOUT_S, locked
from retrieval.store.reads import Reads

_HISTORY = 20
"""Number of earlier live versions that the live pointer keeps."""

_MANIFEST_LIMIT_BYTES = 4 << 20
"""Largest size of a manifest that is read, so that a huge one cannot fill the memory."""


class BundleStore:
    """A folder of bundles. Safe for use by several threads and processes at once.

    Attributes:
        root: Folder of the store.
        reads: Reads of the live pointer, manifests and files that are under way, by any thread.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        on_wait: Callable[[str], None] = lambda message: None,
        lock_timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Takes the folder. It is made by the first `stage`.

        Args:
            root: folder of the store.
            on_wait: receives a message if another process has held the lock of the store for a second.
            lock_timeout_s: longest wait of `promote`, `roll_back` and `prune` for the lock, in seconds, above 0.
        """
        self.root = Path(root)
        self.reads = Reads()
        self._on_wait = on_wait
        self._lock_timeout_s = lock_timeout_s

    # Reading

    def path(self, version: str) -> Path:
        """Returns the folder of a bundle, whether or not it exists.

        Raises:
            InvalidVersion: `version` is not a version. So no path can lead out of the store.
        """
        return self.root / BUNDLES / check_version(version)

    def versions(self) -> list[str]:
        """Returns the versions of all bundles, oldest first.

        Raises:
            StoreError: the folder cannot be listed.
        """
        try:
            names = os.listdir(self.root / BUNDLES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self.root / BUNDLES}: {error}") from error
        versions: list[str] = []
        for name in names:
            with suppress(InvalidVersion):
                versions.append(check_version(name))
        return sorted(versions)

    def live(self) -> LivePointer | None:
        """Returns the live pointer; None before the first promotion.

        Raises:
            StoreError: ``LIVE`` is unreadable or does not name a version.
        """
        with self.reads.track(self.root / LIVE):
            return read_live(self.root)

    def live_version(self) -> str:
        """Returns the version of the live bundle.

        Raises:
            BundleNotFound: no bundle is live.
            StoreError: ``LIVE`` is unreadable or does not name a version.
        """
        pointer = self.live()
        if pointer is None:
            raise BundleNotFound(self._nothing_live())
        return pointer.version

    def manifest(self, version: str) -> Manifest:
        """Returns the manifest of a bundle, without checking its files.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: the manifest is damaged, or has another format version.
        """
        path = self.path(version) / MANIFEST
        with self.reads.track(path):
            try:
                text = read_text(path, _MANIFEST_LIMIT_BYTES)
            except ValueError as error:
                raise BundleRefused(version, "manifest", f"{MANIFEST} is damaged ({error})") from error
            except OSError as error:
                if not self.path(version).is_dir():
                    held = self.versions()
                    raise BundleNotFound(f"{self.root} holds no bundle {version}; it holds {held}") from error
                raise BundleRefused(version, "manifest", f"cannot read {MANIFEST}: {error}") from error
        return Manifest.from_json(text, version)

    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        """Returns the manifest of a bundle after checking that its files are those that were published.

        Hashing reads each file once, in chunks and without the GIL, and leaves it in the page cache.

        Args:
            version: version of the bundle.
            files: paths in the bundle whose sha256 is checked, each of which the manifest must list. Of other files,
                only the size is checked. Default: all files.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: gate ``manifest``, ``format_version``, ``files``, ``size`` or ``sha256``.
        """
        manifest = self.manifest(version)
        folder = self.path(version)
        with self.reads.track(folder) as progress:
            check_files(folder, manifest, files, progress)
        return manifest

    # Writing

    def new_version(self) -> str:
        """Returns a version that sorts after all versions in the store, even if the clock was set back."""
        versions = self.versions()
        return new_version(versions[-1] if versions else None)

    def stage(self, version: str) -> AbstractContextManager[Path]:
        """Yields a new empty folder for the files of a bundle; at the end, removes it unless it was committed.

        Raises:
            StoreError: the folder cannot be made, or the block raised OSError, for instance because the disk is full.
        """
        return staging.stage(self.root, version)

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
        """Turns a staged folder into a bundle by one rename, and returns its manifest.

        Args:
            staged: folder from `stage`, which holds every file of the bundle but the manifest.
            describe: function from size and hash of every file, by path in the bundle, to the manifest.

        Raises:
            StoreError: the disk is full, or the bundle exists already.
        """
        return staging.commit(self.root, staged, describe)

    def promote(self, version: str, *, force: bool = False, expected_live: str | None = None) -> LivePointer:
        """Makes a bundle live, after verifying all of its files.

        Args:
            version: version of the bundle.
            force: promotes a bundle that failed publish gates, which its manifest then records; later promotions of it
                need no force. A damaged bundle is refused all the same.
            expected_live: version that must still be live, for a bundle that was made from it. Default: any.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: the bundle failed a publish gate, or its files are not those that were published.
            StoreError: the store cannot be written or locked, or another bundle than `expected_live` is live.
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
        with self._locked():
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
            return self._point_to(version, old)

    def roll_back(self) -> LivePointer:
        """Makes the previous live bundle live again, and returns the new live pointer.

        The bundle that was live until now is not added to `LivePointer.previous`, so a second roll back goes one bundle
        further back.

        Raises:
            NothingToRollBack: no bundle is live, or none was live before.
            BundleNotFound: the earlier bundle was removed.
            BundleRefused: the earlier bundle is damaged.
            StoreError: the store cannot be written or locked.
        """
        pointer = self.live()
        if pointer is None:
            raise NothingToRollBack(self._nothing_live())
        if not pointer.previous:
            raise NothingToRollBack(
                "no bundle was live before the live one; list them all with `python -m trainer bundles --store "
                f"{self.root}` and promote another, or publish one"
            )
        self.verify(pointer.previous[0])
        with self._locked():
            if self.live() != pointer:
                raise StoreError("another process changed the live bundle meanwhile; look at it and try again")
            return write_live(self.root, LivePointer(pointer.previous[0], pointer.previous[1:]))

    def prune(self, keep: int) -> list[str]:
        """Removes the oldest bundles and returns their versions.

        Staging folders that are older than a day are removed too.

        Args:
            keep: number of newest bundles that stay, at least 1. The live bundle and the one before it always stay.

        Raises:
            ValueError: `keep` is below 1.
            StoreError: the store cannot be read or locked.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        with self._locked():
            pointer = self.live()
            kept = set(pointer.open_versions) if pointer else set()
            removed = [version for version in self.versions()[:-keep] if version not in kept]
            staging.remove(self.root, removed)
        staging.remove_stale(self.root)
        return removed

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.root, self._on_wait, self._lock_timeout_s)

    def _nothing_live(self) -> str:
        if not self.root.is_dir():
            return f"there is no store at {self.root}: check the path"
        return f"no bundle is live in {self.root}: publish one and promote it"

    def _live_or_none(self) -> LivePointer | None:
        with suppress(StoreError):
            return self.live()
        return None

    def _point_to(self, version: str, old: LivePointer | None) -> LivePointer:
        if old is None:
            return write_live(self.root, LivePointer(version))
        if old.version == version:
            return old
        previous = [v for v in (old.version, *old.previous) if v != version and self.path(v).is_dir()]
        return write_live(self.root, LivePointer(version, tuple(previous[:_HISTORY])))

    def _what_stays(self) -> str:
        pointer = self._live_or_none()
        return f"{pointer.version} stays live." if pointer else "Nothing is live yet."

    def _record_force(self, manifest: Manifest, failed: tuple[str, ...]) -> None:
        path = self.path(manifest.bundle_version) / MANIFEST
        try:
            replace_text(path, replace(manifest, forced_gates=(*manifest.forced_gates, *failed)).to_json())
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}; what is live stays") from error
