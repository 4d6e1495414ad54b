"""The store in a bucket of S3, Google Cloud Storage or Azure, with copies of the bundles on this machine.

```
<url>/LIVE                            the live pointer
<url>/bundles/<version>/manifest.json written last: a bundle without it does not exist
<url>/bundles/<version>/…             the files of a bundle
```

There is no lock. ``LIVE`` is replaced on the condition that it is the object that was read, so of two publishers one is
told that the other was first. A removal takes the manifest away, then looks whether the bundle went live meanwhile; a
promotion writes ``LIVE``, then looks whether the manifest is still there. So at least one of the two sees the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from retrieval.bundle.errors import BundleNotFound, BundleRefused, InvalidVersion, StoreError
from retrieval.bundle.files import check_files, check_listed
from retrieval.bundle.layout import BUNDLES, LIVE, MANIFEST
from retrieval.bundle.manifest import FileEntry, Manifest, check_version
from retrieval.store import staging
from retrieval.store.bucket import Bucket, ChangedMeanwhile, Listed, TooLarge
from retrieval.store.cache import Cache
from retrieval.store.download import PARTS_AT_ONCE, fetch
from retrieval.store.live import LIVE_LIMIT_BYTES, LivePointer
from retrieval.store.store import MANIFEST_LIMIT_BYTES, BundleStore

if TYPE_CHECKING:
    from obstore import UpdateVersion

_STALE = timedelta(days=1)
"""Age from which files without a manifest are removed: their publisher has died."""

_TELL_S = 5.0
"""Time in seconds between two messages on a transfer."""


class ObjectStore(BundleStore):
    """A bucket of bundles. Safe for use by several threads and processes at once."""

    def __init__(self, bucket: Bucket, cache: Cache, tell: Callable[[str], None] = lambda message: None) -> None:
        """Takes the bucket, and where copies are kept.

        Args:
            bucket: place of the store.
            cache: copies of this store on this machine.
            tell: receives a message every few seconds while files are transferred.
        """
        super().__init__(bucket.url)
        self._bucket = bucket
        self._cache = cache
        self._tell = tell

    def path(self, version: str) -> Path:
        """Returns the folder of the copy of a bundle, see `BundleStore.path`."""
        return self._cache.path(version)

    def versions(self) -> list[str]:
        """Returns the versions of all bundles, see `BundleStore.versions`."""
        return sorted(version for version, files in self._listing().items() if MANIFEST in files)

    def why_nothing_is_live(self) -> str:
        """Returns why the store has no live pointer, see `BundleStore.why_nothing_is_live`."""
        return f"no bundle is live in {self.name}: publish one and promote it, or check the URL"

    def manifest(self, version: str) -> Manifest:
        """Returns the manifest of a bundle, see `BundleStore.manifest`."""
        try:
            text = self._read_manifest(version)
        except TooLarge as error:
            raise BundleRefused(version, "manifest", str(error)) from error
        if text is None:
            raise BundleNotFound(f"{self.name} holds no bundle {version}; it holds {self.versions()}")
        try:
            return Manifest.from_json(text.decode("utf-8"), version)
        except UnicodeDecodeError as error:
            raise BundleRefused(version, "manifest", f"{MANIFEST} is damaged ({error})") from error

    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        """Returns the manifest of a bundle after fetching files and checking them, see `BundleStore.verify`."""
        manifest = self.manifest(version)
        check_listed(manifest, files or ())
        if files is None:
            self._check_objects(manifest)
        wanted = {name: entry for name, entry in manifest.files.items() if files is None or name in files}
        self._cache.use(version)
        folder = self.path(version)
        with self.reads.track(f"{self.name}/{BUNDLES}/{version}") as progress:
            self._fetch(version, {name: entry.size_bytes for name, entry in wanted.items()}, progress)
            for name, entry in wanted.items():
                try:
                    check_files(folder, replace(manifest, files={name: entry}), None, progress)
                except BundleRefused:
                    (folder / name).unlink(missing_ok=True)  # the next try fetches it again
                    raise
        return manifest

    def keep(self, versions: Collection[str]) -> None:
        """Tells which bundles this process uses, see `BundleStore.keep`."""
        self._cache.keep(versions)

    def stage(self, version: str) -> AbstractContextManager[Path]:
        """Yields a new empty folder in the cache for the files of a bundle, see `BundleStore.stage`."""
        self._cache.make_folder()
        return staging.stage(self._cache.root, version)

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
        """Uploads a staged folder, its manifest last, see `BundleStore.commit`. The folder becomes the copy."""
        manifest = staging.commit(self._cache.root, staged, describe)
        version = manifest.bundle_version
        self._cache.use(version)
        self._cache.trim()
        total = sum(entry.size_bytes for entry in manifest.files.values())
        transfer = _Transfer(self._tell, "uploaded", total, f"bundle {version} to {self.name}")
        for name, entry in manifest.files.items():
            self._bucket.upload(f"{BUNDLES}/{version}/{name}", self.path(version) / name)
            transfer.advance(entry.size_bytes)
        try:
            self._bucket.replace(f"{BUNDLES}/{version}/{MANIFEST}", manifest.to_json().encode(), None)
        except ChangedMeanwhile as error:
            raise StoreError(f"bundle {version} exists already") from error
        return manifest

    def _read_live(self, *, damaged_is_none: bool = False) -> tuple[LivePointer | None, object]:
        with self.reads.track(f"{self.name}/{LIVE}"):
            try:
                found = self._bucket.read(LIVE, LIVE_LIMIT_BYTES)
            except TooLarge as error:
                if damaged_is_none:
                    return None, error.tag
                raise StoreError(f"{error}; promote a bundle to write it anew") from error
        if found is None:
            return None, None
        content, tag = found
        try:
            return LivePointer.parse(content.decode("utf-8")), tag
        except (ValueError, InvalidVersion) as error:
            if damaged_is_none:
                return None, tag
            raise StoreError(f"cannot read {self.name}/{LIVE}: {error}; promote a bundle to write it anew") from error

    def _write_live(self, pointer: LivePointer, tag: object) -> None:
        try:
            self._bucket.replace(LIVE, pointer.to_text().encode(), cast("UpdateVersion | None", tag))
        except ChangedMeanwhile as error:
            live = self.live()
            raise StoreError(
                f"another process made {live.version if live else 'nothing'} live at the same moment, and was first; "
                f"{pointer.version} was not made live. Look which of them you want, and promote it if need be"
            ) from error

    def _changing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _replace_manifest(self, manifest: Manifest) -> None:
        self._bucket.write(f"{BUNDLES}/{manifest.bundle_version}/{MANIFEST}", manifest.to_json().encode())

    def _remove(self, versions: Iterable[str]) -> list[str]:
        listing = self._listing()
        manifests: dict[str, bytes | None] = {}
        for version in versions:
            try:
                manifests[version] = self._read_manifest(version)
            except TooLarge:
                manifests[version] = None  # such a bundle cannot go live meanwhile
        self._bucket.delete([f"{BUNDLES}/{version}/{MANIFEST}" for version in manifests])
        pointer = self.live()
        removed: list[str] = []
        for version, manifest in manifests.items():
            if pointer is not None and version in pointer.open_versions:  # promoted since the last look
                if manifest is not None:
                    self._bucket.write(f"{BUNDLES}/{version}/{MANIFEST}", manifest)
                continue
            names = listing.get(version, {}).keys() - {MANIFEST}
            self._bucket.delete([f"{BUNDLES}/{version}/{name}" for name in sorted(names)])
            removed.append(version)
        return removed

    def _remove_stale(self) -> None:
        oldest = datetime.now(UTC) - _STALE
        for files in self._listing().values():
            if MANIFEST not in files and all(found.modified < oldest for found in files.values()):
                self._bucket.delete([found.key for found in files.values()])
        staging.remove_stale(self._cache.root)

    def _listing(self) -> dict[str, dict[str, Listed]]:
        """Returns the objects of each bundle by path in the bundle; by version."""
        listing: dict[str, dict[str, Listed]] = {}
        with self.reads.track(f"{self.name}/{BUNDLES}"):
            for found in self._bucket.list(BUNDLES):
                _, _, path = found.key.partition(f"{BUNDLES}/")
                version, _, name = path.partition("/")
                try:
                    listing.setdefault(check_version(version), {})[name] = found
                except InvalidVersion:
                    continue  # not an object of a bundle
        return listing

    def _read_manifest(self, version: str) -> bytes | None:
        key = f"{BUNDLES}/{check_version(version)}/{MANIFEST}"
        with self.reads.track(f"{self.name}/{key}"):
            found = self._bucket.read(key, MANIFEST_LIMIT_BYTES)
        return None if found is None else found[0]

    def _check_earlier(self, version: str) -> None:
        # A roll back is urgent, and services have the bundle open: its files are not fetched to this machine first.
        self._check_objects(self.manifest(version))

    def _check_objects(self, manifest: Manifest) -> None:
        """Checks that the bucket has every file in its size, whatever this machine has copies of.

        Raises:
            BundleRefused: gate ``size``: a file is missing or has another size.
            StoreError: the bucket cannot be listed.
        """
        place = f"{BUNDLES}/{manifest.bundle_version}"
        with self.reads.track(f"{self.name}/{place}"):
            sizes = {found.key: found.size_bytes for found in self._bucket.list(place)}
        for name, entry in manifest.files.items():
            size_bytes = sizes.get(f"{place}/{name}")
            if size_bytes != entry.size_bytes:
                actual = "no object" if size_bytes is None else f"{size_bytes} bytes"
                message = (
                    f"{name}: {actual} in {self.name}, expected {entry.size_bytes} bytes; publish the bundle again"
                )
                raise BundleRefused(manifest.bundle_version, "size", message)

    def _fetch(self, version: str, sizes: dict[str, int], progress: Callable[[str], None]) -> None:
        """Fetches the files of a bundle that the cache lacks. Raises StoreError, or BundleRefused as `Cache` does."""
        folder, place = self.path(version), f"{BUNDLES}/{version}"
        with self._cache.fetching(version, lambda: progress(f"{self.name}/{place}")):
            missing = {name: size for name, size in sizes.items() if not (folder / name).is_file()}
            if not missing:
                return
            self._cache.take_room(version, missing)
            transfer = _Transfer(self._tell, "fetched", sum(missing.values()), f"bundle {version} from {self.name}")
            pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="fetch")
            try:
                for name, size in missing.items():
                    key = f"{place}/{name}"
                    progress(f"{self.name}/{key}")

                    def advance(count: int, key: str = key) -> None:
                        progress(f"{self.name}/{key}")
                        transfer.advance(count)

                    fetch(self._bucket, key, size, folder / name, pool, advance)
            finally:
                pool.shutdown(wait=False)  # after an error or Ctrl-C, parts under way may hang for a minute
            transfer.end()


class _Transfer:
    """Tells every few seconds how far a transfer is."""

    def __init__(self, tell: Callable[[str], None], done: str, total: int, what: str) -> None:
        """Takes who is told, the verb, such as ``fetched``, the size in bytes, and what is transferred where."""
        self._tell, self._done, self._total, self._what = tell, done, total, what
        self._count, self._told_s = 0, time.monotonic()

    def advance(self, count: int) -> None:
        """Counts `count` bytes more."""
        self._count += count
        if time.monotonic() - self._told_s >= _TELL_S:
            self._told_s = time.monotonic()
            self._tell(f"{self._done} {self._count >> 20} of {self._total >> 20} MiB of {self._what}")

    def end(self) -> None:
        """Tells that all is there."""
        self._tell(f"{self._done} all {self._total >> 20} MiB of {self._what}")
