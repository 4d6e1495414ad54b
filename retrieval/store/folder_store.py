"""The store in a folder, local or on a shared file system.

```
<store>/LIVE                          the live pointer
<store>/LOCK                          held while LIVE changes or a bundle is pruned
<store>/bundles/<version>/            a bundle
<store>/bundles/.staging-<version>/   a bundle that is being written or removed; never read
```

Every change is an fsync followed by a rename on one file system, so that a reader sees either the old state or the new
one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from retrieval.bundle.errors import BundleNotFound, BundleRefused, InvalidVersion, StoreError
from retrieval.bundle.files import check_files, read_text, replace_text
from retrieval.bundle.layout import BUNDLES, LIVE, MANIFEST
from retrieval.bundle.manifest import FileEntry, Manifest, check_version
from retrieval.store import staging
from retrieval.store.live import LIVE_LIMIT_BYTES, LivePointer
from retrieval.store.lock import TIMEOUT_S, locked
from retrieval.store.store import MANIFEST_LIMIT_BYTES, BundleStore


class FolderStore(BundleStore):
    """A folder of bundles. Safe for use by several threads and processes at once.

    Attributes:
        root: Folder of the store.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        tell: Callable[[str], None] = lambda message: None,
        lock_timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Takes the folder. It is made by the first `stage`.

        Args:
            root: folder of the store.
            tell: receives a message if another process has held the lock of the store for a second.
            lock_timeout_s: longest wait of `promote`, `roll_back` and `prune` for the lock, in seconds, above 0.
        """
        super().__init__(str(root))
        self.root = Path(root)
        self._tell = tell
        self._lock_timeout_s = lock_timeout_s

    def path(self, version: str) -> Path:
        """Returns the folder of a bundle, see `BundleStore.path`."""
        return self.root / BUNDLES / check_version(version)

    def versions(self) -> list[str]:
        """Returns the versions of all bundles, see `BundleStore.versions`."""
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

    def why_nothing_is_live(self) -> str:
        """Returns why the store has no live pointer, see `BundleStore.why_nothing_is_live`."""
        if not self.root.is_dir():
            return f"there is no store at {self.root}: check the path"
        return f"no bundle is live in {self.root}: publish one and promote it"

    def manifest(self, version: str) -> Manifest:
        """Returns the manifest of a bundle, see `BundleStore.manifest`."""
        path = self.path(version) / MANIFEST
        with self.reads.track(str(path)):
            try:
                text = read_text(path, MANIFEST_LIMIT_BYTES)
            except ValueError as error:
                raise BundleRefused(version, "manifest", f"{MANIFEST} is damaged ({error})") from error
            except OSError as error:
                if not self.path(version).is_dir():
                    held = self.versions()
                    raise BundleNotFound(f"{self.root} holds no bundle {version}; it holds {held}") from error
                raise BundleRefused(version, "manifest", f"cannot read {MANIFEST}: {error}") from error
        return Manifest.from_json(text, version)

    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        """Returns the manifest of a bundle after checking its files, see `BundleStore.verify`.

        Of files that are not asked for, the size is checked all the same, which refuses a bundle that is being copied.
        """
        manifest = self.manifest(version)
        folder = self.path(version)
        with self.reads.track(str(folder)) as progress:
            check_files(folder, manifest, files, progress)
        return manifest

    def keep(self, versions: Collection[str]) -> None:
        """Does nothing: the folder is the store itself, no copy of it."""

    def stage(self, version: str) -> AbstractContextManager[Path]:
        """Yields a new empty folder for the files of a bundle, see `BundleStore.stage`."""
        return staging.stage(self.root, version)

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
        """Turns a staged folder into a bundle by one rename, see `BundleStore.commit`."""
        return staging.commit(self.root, staged, describe)

    def _read_live(self, *, damaged_is_none: bool = False) -> tuple[LivePointer | None, object]:
        path = self.root / LIVE
        with self.reads.track(str(path)):
            try:
                return LivePointer.parse(read_text(path, LIVE_LIMIT_BYTES)), None
            except FileNotFoundError:
                return None, None
            except NotADirectoryError as error:
                raise StoreError(f"{self.root} is a file; a store is a folder") from error
            except (OSError, ValueError, InvalidVersion) as error:
                if damaged_is_none:
                    return None, None
                raise StoreError(f"cannot read {path}: {error}; promote a bundle to write it anew") from error

    def _write_live(self, pointer: LivePointer, tag: object) -> None:
        try:
            replace_text(self.root / LIVE, pointer.to_text())
        except OSError as error:
            raise StoreError(f"cannot write {self.root / LIVE}: {error}; what is live stays") from error

    def _changing(self) -> AbstractContextManager[None]:
        return locked(self.root, self._tell, self._lock_timeout_s)

    def _replace_manifest(self, manifest: Manifest) -> None:
        path = self.path(manifest.bundle_version) / MANIFEST
        try:
            replace_text(path, manifest.to_json())
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}; what is live stays") from error

    def _remove(self, versions: Iterable[str]) -> list[str]:
        return staging.remove(self.root, versions)

    def _remove_stale(self) -> None:
        staging.remove_stale(self.root)
