"""The live pointer of a store: which bundle is live, and which were live before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrieval.bundle.errors import InvalidVersion, StoreError
from retrieval.bundle.files import read_text, replace_text
from retrieval.bundle.layout import LIVE
from retrieval.bundle.manifest import check_version

_LIMIT_BYTES = 64 << 10
"""Largest size of ``LIVE`` that is read: far more than the versions that it lists."""


@dataclass(frozen=True)
class LivePointer:
    """Content of the file ``LIVE``.

    Attributes:
        version: Version of the live bundle.
        previous: Versions of the bundles that were live before it, newest first.
    """

    version: str
    previous: tuple[str, ...] = ()

    @property
    def open_versions(self) -> tuple[str, ...]:
        """Versions that a service keeps open: the live bundle, and the one that was live before it."""
        return (self.version, *self.previous[:1])


def read_live(root: Path) -> LivePointer | None:
    """Returns the live pointer of a store; None before the first promotion.

    Raises:
        StoreError: the file is unreadable or does not name a version.
    """
    path = root / LIVE
    try:
        lines = read_text(path, _LIMIT_BYTES).split()
        if not lines:
            raise StoreError(f"{path} is empty; promote a bundle to write it anew")
        return LivePointer(check_version(lines[0]), tuple(map(check_version, lines[1:])))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise StoreError(f"{root} is a file; a store is a folder") from error
    except (OSError, ValueError, InvalidVersion) as error:
        raise StoreError(f"cannot read {path}: {error}; promote a bundle to write it anew") from error


def write_live(root: Path, pointer: LivePointer) -> LivePointer:
    """Replaces the live pointer of a store atomically, and returns it. The caller holds the lock.

    Raises:
        StoreError: the file cannot be written; the old pointer stays.
    """
    try:
        lines = (f"{version}\n" for version in (pointer.version, *pointer.previous))
        replace_text(root / LIVE, "".join(lines))
    except OSError as error:
        raise StoreError(f"cannot write {root / LIVE}: {error}; what is live stays") from error
    return pointer
