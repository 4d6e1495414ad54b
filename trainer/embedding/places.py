"""A folder, or a place in a bucket, that files are read from and written to: a reader sees all of a file or none."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retrieval.bundle.errors import StoreError
from retrieval.bundle.files import fsync
from retrieval.store import bucket as buckets
from retrieval.store.bucket import Bucket, ChangedMeanwhile
from retrieval.store.location import resolve


@dataclass(frozen=True)
class Found:
    """A file of a place.

    Attributes:
        name: Path of the file in the place, with ``/`` between folders.
        size_bytes: Size of the file.
        stamp: Text that differs once the file is written anew: of a bucket the tag of the content, else the time.
    """

    name: str
    size_bytes: int
    stamp: str


class Place(Protocol):
    """Files by name. Every method raises StoreError if it cannot be done.

    Attributes:
        name: Path or URL of the place, as other processes and machines can open it.
        is_bucket: Whether it is in a bucket, where stamps are tags of the content.
    """

    name: str
    is_bucket: bool

    def list(self, folder: str = "") -> list[Found]:
        """Returns the files directly in a folder of the place, sorted by name; none if there is no such folder."""
        ...

    def find(self, name: str) -> Found | None:
        """Returns a file; None if there is none."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the content of a file that exists."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically, whatever was there."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file atomically unless it exists, and returns whether it was written."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""
        ...

    def scan_options(self, name: str) -> tuple[str, dict[str, str]]:
        """Returns the path or URL of a Parquet file, and the storage options that polars reads it with."""
        ...


def open_place(location: str | os.PathLike[str]) -> Place:
    """Returns the place that a path or URL names; see `retrieval.store.location.open_store`. Nothing is read yet.

    Raises:
        StoreError: The URL cannot be used.
    """
    resolved = resolve(location)
    return _Folder(resolved) if isinstance(resolved, Path) else _BucketPlace(resolved)


class _Folder(Place):
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.name, self.is_bucket = str(self._root), False

    def list(self, folder: str = "") -> list[Found]:
        path = self._root / folder
        try:
            names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {path}: {error}") from error
        found = (self.find(f"{folder}/{name}" if folder else name) for name in names)
        return [each for each in found if each is not None]

    def find(self, name: str) -> Found | None:
        try:
            status = (self._root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self._root / name}: {error}") from error
        return Found(name, status.st_size, str(status.st_mtime_ns))

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {self._root / name}: {error}") from error

    def write(self, name: str, content: bytes) -> None:
        self._put(name, content, replaces=True)

    def create(self, name: str, content: bytes) -> bool:
        return self._put(name, content, replaces=False)

    def remove(self, name: str) -> None:
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {self._root / name}: {error}") from error

    def scan_options(self, name: str) -> tuple[str, dict[str, str]]:
        return str(self._root / name), {}

    def _put(self, name: str, content: bytes, *, replaces: bool) -> bool:
        path = self._root / name
        temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if replaces:
                    os.replace(temporary, path)
                else:
                    os.link(temporary, path)
                fsync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}") from error
        return True


class _BucketPlace(Place):
    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)
        self.name, self.is_bucket = url, True

    def list(self, folder: str = "") -> list[Found]:
        found: list[Found] = []
        for each in self._bucket.list(folder):
            name = each.key.removeprefix(f"{folder}/") if folder else each.key
            if "/" not in name:
                found.append(Found(each.key, each.size_bytes, each.tag or each.modified.isoformat()))
        return sorted(found, key=lambda each: each.name)

    def find(self, name: str) -> Found | None:
        each = self._bucket.find(name)
        return None if each is None else Found(name, each.size_bytes, each.tag or each.modified.isoformat())

    def read(self, name: str) -> bytes:
        found = self.find(name)
        if found is None:
            raise StoreError(f"cannot read {self.name}/{name}: there is no such object")
        return bytes(self._bucket.read_part(name, 0, found.size_bytes)) if found.size_bytes else b""

    def write(self, name: str, content: bytes) -> None:
        self._bucket.upload(name, content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._bucket.replace(name, content, None)
        except ChangedMeanwhile:
            return False
        return True

    def remove(self, name: str) -> None:
        self._bucket.delete([name])

    def scan_options(self, name: str) -> tuple[str, dict[str, str]]:
        return f"{self.name}/{name}", {"allow_http": "true"} if buckets.is_plain_http() else {}
