"""Load gates that both services share: the checks that a bundle has to pass before it is opened.

| gate                     | passes where                                                     |
|--------------------------|------------------------------------------------------------------|
| manifest, format_version | the manifest can be read, and the services support its format    |
| files, size, sha256      | the files are those that the manifest lists                      |
| memory                   | the bundle fits into memory together with the open ones          |
| contents                 | every file can be read, and its shape is the one in the manifest |
|                          | no archive unpacks to more than its size on disk                 |
| canaries                 | the golden queries get their known answers                       |

No gate can be overridden. Each refusal names the gate, the value and the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.golden_queries import EMBEDDING_TOLERANCE, GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES
from retrieval.bundle.manifest import Manifest

T = TypeVar("T")

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Returns the memory that this process can still allocate, in bytes: the machine's or its cgroup's, if less."""
    machine = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    )
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))  # "max", not a number: no limit
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return machine
    return min(machine, limit - used + int(stat.get("file", 0)))  # the kernel evicts the page cache when it must


def check_memory(version: str, sizes: Mapping[str, int], copies: int, available: int) -> None:
    """Checks that a bundle fits into memory.

    Args:
        version: bundle version.
        sizes: memory that each file takes, in bytes, by its path in the bundle.
        copies: number of bundles of this size that have to fit.
        available: free memory in bytes, from `available_bytes`.

    Raises:
        BundleRefused: gate ``memory``: the bundle does not fit.
    """
    needed = copies * sum(sizes.values())
    if needed > available:
        raise BundleRefused(
            version,
            "memory",
            f"{needed >> 20} MiB are needed for {copies} of these bundles, {available >> 20} MiB are available; "
            "give it more memory, or say --unload-first to drop the old bundle before the new one loads",
        )


def read_contents(version: str, name: str, read: Callable[[], T]) -> T:
    """Calls `read` and returns its result; an error in it refuses the bundle.

    The hash of the file has been verified, so a file that cannot be read was already damaged when it was published.

    Args:
        version: bundle version.
        name: file name, for the message.
        read: reads the file.

    Raises:
        BundleRefused: gate ``contents``: `read` raises an error.
    """
    try:
        return read()
    # EOFError and BadZipFile come from an empty or truncated array file.
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        EOFError,
        BadZipFile,
        OverflowError,
        MemoryError,
    ) as error:
        raise BundleRefused(
            version, "contents", f"{name} cannot be read ({error}); publish the bundle again"
        ) from error


def read_golden_queries(folder: Path, manifest: Manifest) -> GoldenQueries:
    """Returns the golden queries in the folder of a bundle or of a shard.

    Raises:
        BundleRefused: gate ``canaries``: the published embeddings do not have the dimension in the manifest.
            Gate ``contents``: the file is missing or cannot be read.
    """
    version = manifest.bundle_version
    golden_queries = read_contents(version, GOLDEN_QUERIES, lambda: GoldenQueries.read(folder / GOLDEN_QUERIES))
    if golden_queries.embeddings.shape[1] != manifest.dimension:
        raise BundleRefused(
            version,
            "canaries",
            f"{GOLDEN_QUERIES} has embeddings of dimension {golden_queries.embeddings.shape[1]}, the manifest says "
            f"{manifest.dimension}",
        )
    return golden_queries


def check_embeddings(version: str, embeddings: np.ndarray, expected: np.ndarray) -> None:
    """Checks that a query tower maps the golden queries to their published embeddings.

    Args:
        version: bundle version.
        embeddings: [n, dim] float32, computed by the tower that is being loaded.
        expected: [n, dim] float32, from the bundle.

    Raises:
        BundleRefused: gate ``canaries``: an embedding differs by more than `EMBEDDING_TOLERANCE`, or the shapes differ.
    """
    if embeddings.shape != expected.shape:
        raise BundleRefused(version, "canaries", f"embeddings have shape {embeddings.shape}, expected {expected.shape}")
    worst = float(np.max(np.abs(embeddings - expected)))
    if not worst <= EMBEDDING_TOLERANCE:  # negated, so that NaN is refused
        raise BundleRefused(
            version,
            "canaries",
            f"an embedding is {worst:.2e} away from the published one, allowed are {EMBEDDING_TOLERANCE:.0e}; "
            "the query tower is not the one that was published",
        )
