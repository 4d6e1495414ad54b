"""Staging: a bundle is written to a folder that nobody reads, then appears under its version in one rename."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval.bundle.errors import StoreError
from retrieval.bundle.files import fsync, sha256_of
from retrieval.bundle.layout import BUNDLES, MANIFEST, STAGING_PREFIX
from retrieval.bundle.manifest import FileEntry, Manifest, check_version

_STALE_S = 24 * 3600
"""Age in seconds from which a staging folder is removed: its publisher has died."""


@contextmanager
def stage(root: Path, version: str) -> Generator[Path]:
    """Yields a new empty folder for the files of a bundle; at the end, removes it unless `commit` has renamed it.

    Args:
        root: folder of the store.
        version: version of the bundle to be.

    Raises:
        StoreError: the folder cannot be made, or the block raised OSError, for instance because the disk is full.
    """
    path = _staging_folder(root, check_version(version))
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"cannot write to {root}: {error}") from error
    try:
        yield path
    except OSError as error:
        raise StoreError(
            f"cannot write bundle {version} to {root}: {error}; nothing was published and what is live stays. "
            f"Free disk space (`df -h {root}`; `python -m trainer prune` removes old bundles), then try again"
        ) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def commit(root: Path, staged: Path, describe: Callable[[dict[str, FileEntry]], Manifest]) -> Manifest:
    """Turns a staging folder into a bundle by one rename, and returns its manifest.

    Args:
        root: folder of the store.
        staged: folder from `stage`, which holds every file of the bundle but the manifest.
        describe: function from size and hash of every file, by path in the bundle, to the manifest.

    Raises:
        StoreError: the disk is full, or the bundle exists already.
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
        target = root / BUNDLES / manifest.bundle_version
        if target.exists():
            raise StoreError(f"bundle {manifest.bundle_version} exists already")
        os.rename(staged, target)
        fsync(root / BUNDLES)
    except OSError as error:
        raise StoreError(f"cannot write bundle to {root}: {error}") from error
    return manifest


def remove(root: Path, versions: Iterable[str]) -> list[str]:
    """Removes bundles, and returns their versions. A process that has mapped their files keeps them.

    Each is renamed to a staging folder first, so that a reader never sees half of a bundle.

    Raises:
        StoreError: a bundle cannot be removed.
    """
    removed: list[str] = []
    for version in versions:
        folder = _staging_folder(root, version)
        try:
            os.rename(root / BUNDLES / version, folder)
            shutil.rmtree(folder)
        except OSError as error:
            raise StoreError(f"cannot remove bundle {version} from {root}: {error}") from error
        removed.append(version)
    return removed


def remove_stale(root: Path) -> None:
    """Removes staging folders that are older than a day."""
    for path in (root / BUNDLES).glob(f"{STAGING_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path)


def _staging_folder(root: Path, version: str) -> Path:
    return root / BUNDLES / f"{STAGING_PREFIX}{version}"
