"""Files that are whole or absent, and their hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

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
    """Makes `text` the content of a file, all at once: a reader sees the old content or the new one.

    Raises:
        OSError: it cannot be written; the old content stays.
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
    """Returns once a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
