"""Load gates that both services share: what a bundle has to pass before it may answer.

| gate                                                    | passes where                                             |
|---------------------------------------------------------|----------------------------------------------------------|
| manifest, format_version, files, size, sha256           | the files are those that were published                  |
| memory                                                  | it fits beside what is open                              |
| contents                                                | every file can be read, and its shape is the manifest's  |
| canaries                                                | known queries get their known answers                    |

Nothing forces a gate. Each refusal names the gate, the figure and the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np

from bundle.canaries import EMBEDDING_TOLERANCE, Canaries
from bundle.errors import BundleRefused
from bundle.layout import CANARIES
from bundle.manifest import Manifest
from bundle.store import BundleStore

T = TypeVar("T")

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Returns how much memory this process could still take: of the machine, or of its cgroup where that is less."""
    machine = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    )
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return machine
    return min(machine, limit - used + int(stat.get("file", 0)))  # the page cache gives way


def check_memory(manifest: Manifest, files: Collection[str], copies: int, available: int) -> None:
    """Passes a bundle that fits.

    Args:
        manifest: of the bundle.
        files: those that will be mapped or read.
        copies: how many bundles of this size have to fit.
        available: bytes, as of `available_bytes`.

    Raises:
        BundleRefused: gate ``memory``.
    """
    needed = copies * sum(manifest.files[name].size_bytes for name in files)
    if needed > available:
        raise BundleRefused(
            manifest.bundle_version,
            "memory",
            f"{needed >> 20} MiB are needed for {copies} of these bundles, {available >> 20} MiB are available; "
            "give it more memory, or say --unload-first to drop the old bundle before the new one loads",
        )


def read_contents(version: str, name: str, read: Callable[[], T]) -> T:
    """Returns what `read` returns.

    Raises:
        BundleRefused: gate ``contents`` where it raises: hashes match, so the publisher wrote the file so.
    """
    try:
        return read()
    # EOFError and BadZipFile: an empty or cut array file.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, BadZipFile, OverflowError) as error:
        raise BundleRefused(
            version, "contents", f"{name} cannot be read ({error}); publish the bundle again"
        ) from error


def read_canaries(store: BundleStore, manifest: Manifest) -> Canaries:
    """Returns the canaries of a bundle.

    Raises:
        BundleRefused: gate ``canaries`` where they have another shape than the manifest says; ``contents`` where they
            cannot be read or there are none.
    """
    version = manifest.bundle_version
    canaries = read_contents(version, CANARIES, lambda: Canaries.read(store.path(version) / CANARIES))
    if canaries.embeddings.shape[1] != manifest.dimension:
        raise BundleRefused(
            version,
            "canaries",
            f"{CANARIES} has embeddings of dimension {canaries.embeddings.shape[1]}, the manifest says "
            f"{manifest.dimension}",
        )
    return canaries


def check_embeddings(version: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Passes a tower that maps the canaries to their known embeddings.

    Args:
        version: of the bundle.
        found: [n, dimension] float32.
        expected: likewise.

    Raises:
        BundleRefused: gate ``canaries``.
    """
    if found.shape != expected.shape:
        raise BundleRefused(version, "canaries", f"embeddings have shape {found.shape}, expected {expected.shape}")
    worst = float(np.max(np.abs(found - expected)))
    if not worst <= EMBEDDING_TOLERANCE:  # so written that NaN fails
        raise BundleRefused(
            version,
            "canaries",
            f"an embedding is {worst:.2e} away from the published one, allowed are {EMBEDDING_TOLERANCE:.0e}; "
            "the query tower is not the one that was published",
        )
