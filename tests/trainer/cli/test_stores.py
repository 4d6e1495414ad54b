"""What the commands say of a store that is not there, or has nothing live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval.bundle.errors import BundleError
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import command
from tests.worlds import write_bundle


def commands(folder: Path) -> list[tuple[Any, ...]]:
    """Returns commands that need a bundle, without the option of the store."""
    (folder / "users.csv").write_text("user_id\nu1\n")
    return [
        ("recommend", "--users", folder / "users.csv", "--out", folder / "lists"),
        ("add-items", "--remove-id", "i1"),
        ("embed-items", "--items", folder, "--to", folder / "vectors"),
        ("tune-index", "--out", folder / "plots.html"),
    ]


def test_a_folder_that_does_not_exist_is_said_to_be_no_store(tmp_path: Path) -> None:
    for arguments in [*commands(tmp_path), ("bundles",), ("rollback",), ("prune",)]:
        with pytest.raises(BundleError, match=r"there is no store at .*stor: check the path$"):
            command(*arguments, "--store", tmp_path / "stor")
    assert not (tmp_path / "stor").exists()


def test_a_file_is_said_to_be_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="file is a file; a store is a folder"):
        command("bundles", "--store", tmp_path / "file")


def test_where_nothing_is_live_a_bundle_that_could_be_named_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = FolderStore(tmp_path / "store")
    for arguments in commands(tmp_path):
        with pytest.raises(BundleError, match=r"no bundle is live in .*store: publish one and promote it$"):
            command(*arguments, "--store", store.root)
    version = write_bundle(store).bundle_version
    (store.root / "LIVE").unlink()
    for arguments in commands(tmp_path):
        with pytest.raises(BundleError, match=f"or name a bundle with --bundle, such as {version}, the newest$"):
            command(*arguments, "--store", store.root)
