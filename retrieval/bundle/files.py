"""Atomic writes, and checksum verification."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.manifest import Manifest

_CHUNK_BYTES = 4 << 20


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hex; reading and hashing both run without the GIL."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


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


def check_files(folder: Path, manifest: Manifest, hashed: Collection[str] | None) -> None:
    """Checks that the files of a bundle are those that its manifest lists.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        hashed: paths of the files whose sha256 is checked. Of other files, only the size is checked. None: all files.

    Raises:
        BundleRefused: a file is missing or has another size or hash; gate ``files``, ``size`` or ``sha256``.
    """
    version = manifest.bundle_version
    absent = sorted(set(hashed or ()) - manifest.files.keys())
    if absent:
        raise BundleRefused(version, "files", f"the manifest lists no {', '.join(absent)}")
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size if path.is_file() else -1
            if size_bytes != entry.size_bytes:
                actual = f"{size_bytes} bytes" if size_bytes >= 0 else "no file"
                raise BundleRefused(
                    version, "size", f"{name}: {actual}, expected {entry.size_bytes} bytes; copy or publish it again"
                )
            if (hashed is None or name in hashed) and (digest := sha256_of(path)) != entry.sha256:
                raise BundleRefused(
                    version,
                    "sha256",
                    f"{name}: sha256 {digest[:12]}…, expected {entry.sha256[:12]}…; copy or publish it again",
                )
        except OSError as error:
            raise BundleRefused(version, "files", f"cannot read {name}: {error}") from error
