"""How much memory the files of a bundle take once they are read, computed before anything of them is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.manifest import Manifest

_CHUNK_BYTES = 4 << 20

_BYTES_PER_JSON_BYTE = 8
"""Python keeps a text with four bytes a character if one needs them; the text and its parsed strings exist together."""

_BYTES_PER_JSON_VALUE = 80
"""A Python object and its reference. Measured on hostile texts (empty lists, nested dicts): at most 76."""


def measure_files(folder: Path, manifest: Manifest, names: Collection[str]) -> dict[str, int]:
    """Returns the memory that each file takes once it is read, in bytes, by its path in the bundle.

    Binary files take their size, since they are mapped or copied; JSON files take an upper bound by the number of their
    values; archives of arrays take the size of their arrays.

    Args:
        folder: folder of the bundle, whose files are verified.
        manifest: manifest of the bundle.
        names: paths in the bundle of the files that will be read.

    Raises:
        BundleRefused: gate ``contents`` if an archive unpacks to more than its size on disk, or an array of it claims
            another size than it has. `ItemTable.write` and `Bm25.write` never compress.
    """
    return {name: _measure_file(folder / name, manifest, name) for name in names}


def _measure_file(path: Path, manifest: Manifest, name: str) -> int:
    size_bytes = manifest.files[name].size_bytes
    try:
        if path.suffix == ".json":
            return _bound_json(path)
        if path.suffix == ".npz":
            return _measure_archive(path, size_bytes)
    except OSError as error:
        raise BundleRefused(manifest.bundle_version, "contents", f"{name} cannot be read ({error})") from error
    except _Untrue as error:
        message = f"{name}: {error}; publish the bundle again"
        raise BundleRefused(manifest.bundle_version, "contents", message) from error
    except (ValueError, KeyError, EOFError, BadZipFile, NotImplementedError, RuntimeError):
        pass  # not an archive of arrays: whoever loads it meets the same error, and refuses the bundle at its own gate
    return size_bytes


class _Untrue(Exception):
    """An archive that would take more memory than it seems to."""


def _bound_json(path: Path) -> int:
    total = value_count = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total += len(chunk)
            value_count += sum(map(chunk.count, (b",", b"[", b"{", b":")))
    return _BYTES_PER_JSON_BYTE * total + _BYTES_PER_JSON_VALUE * value_count


def _measure_archive(path: Path, size_bytes: int) -> int:
    with ZipFile(path) as archive:
        # NumPy reads no more of a member than the directory of the archive says.
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > size_bytes:
            raise _Untrue(f"unpacks to {unpacked} bytes from {size_bytes} bytes; arrays are stored uncompressed")
        for name, claimed, actual in _arrays(archive):
            if claimed != actual:
                raise _Untrue(f"array {name} claims {claimed} bytes of data and has {actual}")
    return unpacked


def _arrays(archive: ZipFile) -> Iterator[tuple[str, int, int]]:
    """Yields name, size by the header, and size by the directory of each array, in bytes, without its data."""
    for member in archive.infolist():
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise _Untrue(f"array {member.filename} has NPY version {version}, expected 1.0 or 2.0")
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            yield member.filename, math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
