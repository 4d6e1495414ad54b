"""The store of bundles: stage, verify, promote, roll back, prune.

```
<store>/LIVE                          live version on the first line, earlier live versions below, newest first
<store>/bundles/<version>/            a bundle: immutable, except for one field, below
```

`BundleStore` has the rules that hold wherever the bundles are. `retrieval.store.location.open_store` opens the folder
of `retrieval.store.folder_store` or the bucket of `retrieval.store.object_store`.

Any number of processes may read and write a store at once. Every change is atomic: a reader sees either the old state
or the new one, and of two processes that change what is live at the same time, one is told that the other was first.

Only one field of a bundle ever changes: `forced_gates` of its manifest, when it is promoted in spite of failed publish
gates. So the record travels with the bundle, and one that is made from it inherits it. The manifest alone has no hash.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from retrieval.bundle.errors import BundleNotFound, BundleRefused, NothingToRollBack, StoreError
from retrieval.bundle.manifest import FileEntry, Manifest, new_version
from retrieval.store.live import LivePointer
from retrieval.store.reads import Reads

MANIFEST_LIMIT_BYTES = 4 << 20
"""Largest size of a manifest that is read, so that a huge one cannot fill the memory."""


class BundleStore(ABC):
    """A store of bundles, for several threads and processes at once.

    Attributes:
        name: Path or URL of the store, as a person would write it.
        reads: Reads of the live pointer, manifests and files that are under way, by any thread.
    """

    def __init__(self, name: str) -> None:
        """Takes the path or URL."""
        self.name = name
        self.reads = Reads()

    @abstractmethod
    def path(self, version: str) -> Path:
        """Returns the folder on this machine that has the verified files of a bundle, whether or not it exists.

        Raises:
            InvalidVersion: `version` is not a version. So no path can lead out of the store.
        """

    @abstractmethod
    def versions(self) -> list[str]:
        """Returns the versions of all bundles, oldest first.

        Raises:
            StoreError: the store cannot be listed.
        """

    def live(self) -> LivePointer | None:
        """Returns the live pointer; None before the first promotion.

        Raises:
            StoreError: ``LIVE`` is unreadable or does not name a version.
        """
        return self._read_live()[0]

    def live_version(self) -> str:
        """Returns the version of the live bundle.

        Raises:
            BundleNotFound: no bundle is live.
            StoreError: ``LIVE`` is unreadable or does not name a version.
        """
        pointer = self.live()
        if pointer is None:
            raise BundleNotFound(self.why_nothing_is_live())
        return pointer.version

    @abstractmethod
    def why_nothing_is_live(self) -> str:
        """Returns why the store has no live pointer, and what to do."""

    @abstractmethod
    def manifest(self, version: str) -> Manifest:
        """Returns the manifest of a bundle, without checking its files.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: the manifest is damaged, or has another format version.
            StoreError: the store cannot be reached.
        """

    @abstractmethod
    def verify(self, version: str, files: Collection[str] | None = None) -> Manifest:
        """Returns the manifest of a bundle after checking that its files are those that were published.

        Afterwards the files are in the folder `path`. Hashing reads each file once, without the GIL.

        Args:
            version: version of the bundle.
            files: paths of the files that will be read; the manifest must list them. Default: all files.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: gate ``manifest``, ``format_version``, ``files``, ``size``, ``sha256`` or ``disk``.
            StoreError: the store cannot be reached.
        """

    @abstractmethod
    def keep(self, versions: Collection[str]) -> None:
        """Tells which bundles this process uses; files of others may be removed from this machine's copy of the store.

        A bundle that was verified counts as used until the next call.
        """

    # Writing

    def new_version(self) -> str:
        """Returns a version that sorts after all versions in the store, even if the clock was set back."""
        versions = self.versions()
        return new_version(versions[-1] if versions else None)

    @abstractmethod
    def stage(self, version: str) -> AbstractContextManager[Path]:
        """Yields a new empty folder for the files of a bundle; at the end, removes it unless it was committed.

        Raises:
            StoreError: the folder cannot be made, or the block raised OSError, for instance because the disk is full.
        """

    @abstractmethod
    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
        """Turns a staged folder into a bundle, which readers see as a whole or not at all, and returns its manifest.

        Args:
            staged: folder from `stage`, which holds every file of the bundle but the manifest.
            describe: function from size and hash of every file, by path in the bundle, to the manifest.

        Raises:
            StoreError: the store cannot be written, as when the disk is full, or the bundle exists already.
        """

    def promote(self, version: str, *, force: bool = False, expected_live: str | None = None) -> LivePointer:
        """Makes a bundle live, after verifying all of its files.

        Args:
            version: version of the bundle.
            force: promotes a bundle that failed publish gates, which its manifest then records; later promotions of it
                need no force. A damaged bundle is refused all the same.
            expected_live: version that must still be live; empty: none may be. Default: any.

        Raises:
            BundleNotFound: the store has no such bundle.
            BundleRefused: the bundle failed a publish gate, or its files are not those that were published.
            StoreError: the store cannot be written or locked, or what is live is not as expected, or changed meanwhile.
        """
        manifest = self.verify(version)
        if (failed := manifest.failed_gates) and not force:
            reasons = "; ".join(manifest.gates[name].message for name in failed)
            raise BundleRefused(
                version,
                ", ".join(failed),
                f"{reasons}. {self._what_stays()} The bundle is kept in {self.name} to be looked at; mend the cause "
                "and publish again, or promote it all the same with --force",
            )
        with self._changing():
            held = self.versions()
            if version not in held:
                raise BundleNotFound(f"bundle {version} was removed meanwhile")
            old, tag = self._read_live(damaged_is_none=True)
            if expected_live not in (None, old.version if old else ""):
                raise StoreError(
                    f"{old.version if old else 'nothing'} is live now, and not {expected_live or 'nothing'}: look at "
                    f"the store again; if bundle {version} was made from the other, make it anew"
                )
            if failed:
                self._replace_manifest(replace(manifest, forced_gates=(*manifest.forced_gates, *failed)))
            if old is not None and old.version == version:
                return old
            new = old.followed_by(version, held) if old else LivePointer(version)
            self._write_live(new, tag)
            if version not in self.versions():  # it was removed between the look above and the write
                self._take_back(new, old)
                raise BundleNotFound(f"bundle {version} was removed meanwhile")
            return new

    def roll_back(self, *, expected: tuple[str, str] | None = None) -> LivePointer:
        """Makes the previous live bundle live again, and returns the new live pointer.

        The one that was live until now is not added to `LivePointer.previous`, so a second roll back goes further back.

        Args:
            expected: versions of the live and the previous bundle, which must still be those. Default: any.

        Raises:
            NothingToRollBack: no bundle is live, or none was live before.
            BundleNotFound, BundleRefused: the earlier bundle was removed, or is damaged.
            StoreError: the store cannot be written or locked, or what is live is not as expected, or changed meanwhile.
        """
        pointer = self.live()
        if pointer is None:
            raise NothingToRollBack(self.why_nothing_is_live())
        if expected not in (None, pointer.open_versions):
            raise StoreError(f"{' after '.join(pointer.open_versions)} is live now: look at the store again")
        if not pointer.previous:
            raise NothingToRollBack(
                "no bundle was live before the live one; list them all with `python -m trainer bundles --store "
                f"{self.name}` and promote another, or publish one"
            )
        self._check_earlier(pointer.previous[0])
        with self._changing():
            current, tag = self._read_live()
            if current != pointer:
                raise StoreError("another process changed the live bundle meanwhile; look at it and try again")
            new = LivePointer(pointer.previous[0], pointer.previous[1:])
            self._write_live(new, tag)
            return new

    def prune(self, keep: int) -> list[str]:
        """Removes the oldest bundles and returns their versions.

        What publishers that died have left behind, and is older than a day, is removed too.

        Args:
            keep: number of newest bundles that stay, at least 1. The live bundle and the one before it always stay.

        Raises:
            ValueError: `keep` is below 1.
            StoreError: the store cannot be read, written or locked.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        with self._changing():
            pointer = self.live()
            kept = set(pointer.open_versions) if pointer else set()
            removed = self._remove([version for version in self.versions()[:-keep] if version not in kept])
        self._remove_stale()
        return removed

    # What a kind of store provides

    @abstractmethod
    def _read_live(self, *, damaged_is_none: bool = False) -> tuple[LivePointer | None, object]:
        """Returns the live pointer, and a tag that `_write_live` compares; None before the first promotion.

        Args:
            damaged_is_none: returns None for a pointer that does not name a version, and so may be replaced.

        Raises:
            StoreError: ``LIVE`` cannot be read, or does not name a version.
        """

    @abstractmethod
    def _write_live(self, pointer: LivePointer, tag: object) -> None:
        """Replaces the live pointer atomically, unless it changed since `tag` was read.

        Raises:
            StoreError: the store cannot be written, and the old pointer stays; or another process was first.
        """

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """Returns a context in which this process changes the store. Raises StoreError if it cannot be entered."""

    @abstractmethod
    def _replace_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest of a bundle atomically. Raises StoreError if that fails."""

    @abstractmethod
    def _remove(self, versions: Iterable[str]) -> list[str]:
        """Removes bundles that were not live at the last look, and returns those that are gone.

        A reader never sees half of a bundle, and a process that has mapped its files keeps them.
        Raises StoreError if a bundle cannot be removed.
        """

    @abstractmethod
    def _remove_stale(self) -> None:
        """Removes what publishers that died have left behind, if it is older than a day."""

    def _check_earlier(self, version: str) -> None:
        """Checks a bundle that was live before. Raises BundleNotFound or BundleRefused, as `verify` does."""
        self.verify(version)

    def _take_back(self, new: LivePointer, old: LivePointer | None) -> None:
        """Makes `old` live again after a promotion whose bundle is gone, unless something else is live by now."""
        current, tag = self._read_live()
        if current == new and old is not None:
            self._write_live(old, tag)

    def _what_stays(self) -> str:
        with suppress(StoreError):
            if pointer := self.live():
                return f"{pointer.version} stays live."
        return "Nothing is live yet."
