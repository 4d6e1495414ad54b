"""Files that take far more memory than their size: they are refused before anything of them is loaded."""

from __future__ import annotations

import copy
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.bundle.errors import BundleRefused
from retrieval.serving.bundles.file_memory import measure_files
from retrieval.store.folder_store import FolderStore
from tests.harness import ann_service, query_tower_service
from tests.worlds import write_bundle

BOMB_MIB = 1 << 10
MEMBER = "attribute/int/year/numbers.npy"


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def bomb(folder: Path) -> None:
    """Replaces the years of the items by 1 GiB of zeros, compressed to 5 MiB."""
    source, target = folder / "items.npz", folder / "bomb"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as file:
                if name != MEMBER:
                    file.write(old.read(name))
                    continue
                file.write(header((BOMB_MIB << 17,)))
                zeros = bytes(1 << 20)
                for _ in range(BOMB_MIB):
                    file.write(zeros)
    target.replace(source)


def huge_claim(folder: Path) -> None:
    """Lets the years of the items claim a TiB that they do not have."""
    rewrite(folder, lambda content: header((1 << 37,)) + content[-2400:])


def rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    source, target = folder / "items.npz", folder / "changed"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == MEMBER else old.read(name))
    target.replace(source)


def overlapping(folder: Path) -> None:
    """Lists the same data in the directory a thousand times."""
    with zipfile.ZipFile(folder / "items.npz", "a") as archive:
        archive.writestr("padding.npy", b"")  # the directory is written anew only if something changed
        archive.filelist += [copy.copy(archive.getinfo(MEMBER)) for _ in range(1000)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [(bomb, "unpacks to"), (huge_claim, "claims 1099511627776 bytes"), (overlapping, "unpacks to")],
)
def test_archive_that_unpacks_to_more_than_its_size_is_refused(
    store: FolderStore, damage: Callable[[Path], None], message: str
) -> None:
    manifest = write_bundle(store, damage=damage)
    with ann_service(store) as service:
        problem = service.wait_for_problem(manifest.bundle_version)
        assert problem.gate == "contents"
        assert f"items.npz: {'array ' if 'claims' in message else ''}" in problem.message
        assert message in problem.message


def test_archives_of_a_sound_bundle_take_their_size(store: FolderStore) -> None:
    manifest = write_bundle(store, texts=lambda row: f"red mouse {row}")
    names = ("items.npz", "lexical/words.npz", "vectors.npy")
    measured = measure_files(store.path(manifest.bundle_version), manifest, names)
    for name in names:
        size_bytes = manifest.files[name].size_bytes
        assert 0.8 * size_bytes < measured[name] <= size_bytes


def test_unreadable_file_is_refused(store: FolderStore) -> None:
    manifest = write_bundle(store, promote=False)
    (store.path(manifest.bundle_version) / "canaries.json").unlink()
    with pytest.raises(BundleRefused, match=r"gate contents: canaries\.json cannot be read"):
        measure_files(store.path(manifest.bundle_version), manifest, ("canaries.json",))


HOSTILE_JSON = {
    "lists": "[" + "[]," * 200_000 + "[]]",
    "lists of one": "[" + "[1]," * 200_000 + "[]]",
    "dicts": "[" + '{"a":1},' * 200_000 + "{}]",
    "dicts of dicts": "[" + '{"":{}},' * 200_000 + "{}]",
    "one dict": "{" + ",".join(f'"{number}":[]' for number in range(200_000)) + "}",
    "numbers": "[" + "1.5," * 200_000 + "1.5]",
    "wide strings": "[" + '"😀",' * 200_000 + '""]',
    "one wide string": '["' + "a" * 600_000 + '😀"]',
    "nested": "[" * 900 + "]" * 900,
}


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_json_takes_no_more_memory_than_measured(store: FolderStore, text: str) -> None:
    manifest = write_bundle(store, promote=False)
    path = store.path(manifest.bundle_version) / "canaries.json"
    path.write_text(text, encoding="utf-8")
    bound = measure_files(path.parent, manifest, ("canaries.json",))["canaries.json"]
    tracemalloc.start()
    try:
        json.loads(path.read_text(encoding="utf-8"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= bound + 64 * 1024


def test_json_that_does_not_fit_is_refused_by_both_services(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flood(folder: Path) -> None:
        (folder / "canaries.json").write_text("[" + "[]," * 2_000_000 + "[]]")  # 6 MB on disk, 130 MB as objects

    version = write_bundle(store, damage=flood).bundle_version
    for module, service in (("ann_service", ann_service), ("query_tower_service", query_tower_service)):
        monkeypatch.setattr(f"{module}.loader.available_bytes", lambda: 100_000_000)
        with service(store) as running:
            problem = running.wait_for_problem(version)
            assert problem.gate == "memory", problem.message
