"""Atomic writes, and checksum verification."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.manifest import Manifest

_CHUNK_BYTES = 4 << 20


def sha256_of(path: Path, progress: Callable[[], None] = lambda: None) -> str:
    """Returns the SHA-256 of a file in hex; reading and hashing both run without the GIL.

    Args:
        path: the file.
        progress: called after each chunk of at most 4 MiB.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            progress()
    return digest.hexdigest()


def read_text(path: Path, limit_bytes: int) -> str:
    """Returns the content of a UTF-8 file, of which no more than the limit is read.

    Args:
        path: the file.
        limit_bytes: largest size that the file may have.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is larger, or is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"{path.name} has more than {limit_bytes} bytes, the most that is read")
    return content.decode("utf-8")


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of a file atomically: a reader sees the old content or the new one.

    Raises:
        OSError: the file cannot be written; the old content stays.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_listed(manifest: Manifest, names: Collection[str]) -> None:
    """Checks that a manifest lists files.

    Args:
        manifest: manifest of the bundle.
        names: paths in the bundle.

    Raises:
        BundleRefused: gate ``files``: it does not list one of them.
    """
    absent = sorted(set(names) - manifest.files.keys())
    if absent:
        raise BundleRefused(manifest.bundle_version, "files", f"the manifest lists no {', '.join(absent)}")


def check_files(
    folder: Path,
    manifest: Manifest,
    hashed: Collection[str] | None,
    progress: Callable[[str], None] = lambda path: None,
) -> None:
    """Checks that the files of a bundle are those that its manifest lists.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        hashed: paths of the files whose sha256 is checked. Of other files, only the size is checked. None: all files.
        progress: called with the path before each file, and after each chunk of at most 4 MiB.

    Raises:
        BundleRefused: a file is missing or has another size or hash; gate ``files``, ``size`` or ``sha256``.
    """
    version = manifest.bundle_version
    check_listed(manifest, hashed or ())
    for name, entry in manifest.files.items():
        path = folder / name
        progress(str(path))
        try:
            size_bytes = path.stat().st_size if path.is_file() else -1
            if size_bytes != entry.size_bytes:
                actual = f"{size_bytes} bytes" if size_bytes >= 0 else "no file"
                raise BundleRefused(
                    version, "size", f"{name}: {actual}, expected {entry.size_bytes} bytes; copy or publish it again"
                )
            if (hashed is None or name in hashed) and (
                digest := sha256_of(path, partial(progress, str(path)))
            ) != entry.sha256:
                raise BundleRefused(
                    version,
                    "sha256",
                    f"{name}: sha256 {digest[:12]}…, expected {entry.sha256[:12]}…; copy or publish it again",
                )
        except OSError as error:
            raise BundleRefused(version, "files", f"cannot read {name}: {error}") from error
