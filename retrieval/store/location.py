"""Opens the store that a path or URL names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from retrieval.bundle.errors import StoreError
from retrieval.store.bucket import Bucket
from retrieval.store.cache import Cache
from retrieval.store.folder_store import FolderStore
from retrieval.store.object_store import ObjectStore
from retrieval.store.store import BundleStore

_OBJECT_SCHEMES = ("s3", "gs", "az")

CACHE = "TWO_TOWER_CACHE"
"""Environment variable of the folder of the copies of bundles."""
CACHE_GIB = "TWO_TOWER_CACHE_GIB"
"""Environment variable of the most that the copies of one store may take on disk, in GiB."""

DEFAULT_GIB = 50
"""Default of the most that the copies of one store may take on disk, in GiB."""


def open_store(location: str | os.PathLike[str], tell: Callable[[str], None] = lambda message: None) -> BundleStore:
    """Returns the store that a path or URL names. Nothing is read yet.

    Bundles of a store in a bucket are copied to a folder of this machine: that of the environment variable
    ``TWO_TOWER_CACHE`` (default: ``~/.cache/two-tower``), of at most ``TWO_TOWER_CACHE_GIB`` (default: 50) a store.

    Args:
        location: a path, or a URL: ``file:///folder``, ``s3://bucket/prefix``, ``gs://bucket/prefix``,
            ``az://container/prefix``.
        tell: receives a message while the store waits for a lock or transfers files.

    Raises:
        StoreError: the URL or the environment cannot be used.
    """
    place = resolve(location)
    if isinstance(place, Path):
        return FolderStore(place, tell=tell)
    return ObjectStore(Bucket(place), Cache(_cache_folder(place), _cache_limit()), tell)


def check_is_there(location: str | os.PathLike[str]) -> None:
    """Checks that the folder of a store exists; of a place in a bucket, that cannot be told.

    Raises:
        StoreError: there is no such folder, or the URL cannot be used.
    """
    place = resolve(location)
    if isinstance(place, Path) and not place.is_dir():
        raise StoreError(f"there is no store at {place}: check the path")


def resolve(location: str | os.PathLike[str]) -> Path | str:
    """Returns the folder that a path or URL names, or the URL of a place in a bucket without a slash at its end.

    Args:
        location: see `open_store`.

    Raises:
        StoreError: the URL cannot be used.
    """
    name = os.fspath(location)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        if scheme := re.match(rf"\s*({'|'.join(('file', *_OBJECT_SCHEMES))}):", name, re.IGNORECASE):
            raise StoreError(
                f"cannot use {name!r}: a URL starts with {scheme[1].lower()}://, without a blank before it"
            )
        return Path(name)
    if not name.isprintable():
        raise StoreError(f"cannot use {name!r}: a URL has no line breaks or other characters that cannot be printed")
    try:
        parts = urlsplit(name)
    except ValueError as error:
        raise StoreError(f"cannot use {name}: {error}") from error
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise StoreError(f"cannot use {name}: a URL of a folder has three slashes, as file:///srv/store")
        return Path(unquote(parts.path))
    if parts.scheme not in _OBJECT_SCHEMES:
        raise StoreError(
            f"cannot use {name}: a store is a folder, or a URL that starts with file://, "
            + " or ".join(f"{scheme}://" for scheme in _OBJECT_SCHEMES)
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise StoreError(
            f"cannot use the URL of a store at {parts.scheme}://{parts.hostname or ''}: it may have a bucket and a "
            "prefix alone; credentials come from the environment"
        )
    if not parts.netloc:
        raise StoreError(f"cannot use {name}: it names no bucket; expected {parts.scheme}://BUCKET/PREFIX")
    return parts.scheme + name[len(parts.scheme) :].rstrip("/")  # the scheme in small letters


def _cache_folder(url: str) -> Path:
    """Returns the folder of the copies of one store. Raises StoreError if there is none."""
    try:
        home = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "two-tower"
    except RuntimeError as error:
        raise StoreError(f"this user has no home folder for copies of {url}: name a folder in {CACHE}") from error
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url)[:60]
    return Path(home) / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _cache_limit() -> int:
    """Returns the most that the copies of one store may take, in bytes. Raises StoreError."""
    text = os.environ.get(CACHE_GIB, "")
    try:
        gib = float(text) if text else DEFAULT_GIB
    except ValueError as error:
        raise StoreError(f"{CACHE_GIB} is {text!r}, expected a number of GiB") from error
    if not 0 < gib <= 1 << 20:
        raise StoreError(f"{CACHE_GIB} is {text}, expected a number of GiB above 0")
    return int(gib * (1 << 30))
