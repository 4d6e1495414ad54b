"""Folders of vectors that were damaged or edited, or are none: one plain error each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.embedding.catalogue import SLICES, embed, write_items
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer.errors import DataError

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture(scope="module")
def embedded(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, not to be changed."""
    folder = tmp_path_factory.mktemp("embedded")
    embed(shop.store.root, write_items(folder / "items"), folder / "vectors")
    return folder / "vectors"


def edited(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """Returns a JSON value in which the one at a path is another."""
    if not path:
        return new
    value[path[0]] = edited(value[path[0]], path[1:], new)
    return value


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("slice_rows",), 0, r"damaged \(slice_rows: .*greater than or equal to 1"),
        (("slice_rows",), "ten", r"damaged \(slice_rows: .*valid integer"),
        (("items",), 7, r"damaged \(items: .*valid string"),
        (("files", 0, "rows"), -1, r"damaged \(files\.0\.rows: .*greater than or equal to 0"),
        (("files",), None, r"damaged \(files: "),
        (("packages",), [], r"damaged \(packages: "),
        (("notes",), "a", r"damaged \(notes: "),
        (("format_version",), 2, "format 2, this program reads 1: update it"),
        (("format_version",), "x", r"damaged \(format_version: "),
        ((), [], r"damaged \("),
        ((), 1, r"damaged \("),
    ],
)
def test_a_damaged_plan_is_named(
    shop: Shop, embedded: Path, tmp_path: Path, path: tuple[str | int, ...], new: Any, message: str
) -> None:
    vectors = shutil.copytree(embedded, tmp_path / "vectors")
    plan = vectors / "plan.json"
    plan.write_text(json.dumps(edited(json.loads(plan.read_text()), path, new)))
    with pytest.raises(DataError, match=rf"^{plan}: {message}"):
        command("add-items", "--store", shop.store.root, "--vectors", vectors)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("parts", 0, "name"), 7, r"damaged \(parts\.0\.name: .*valid string"),
        (("parts", 0, "name"), "../plan.json", r"damaged \('\.\./plan\.json' is no name of part 0\)"),
        (("parts", 0, "number"), 1, r"damaged \('parts/part-000000-.*' is no name of part 0\)"),
        (("parts", 0, "sha256"), "0" * 64, r"damaged \('parts/part-000000-.*' is no name of part 0\)"),
        (("parts",), {}, r"damaged \(parts: .*valid (list|array)"),
        (("parts",), [], rf"damaged \(it lists 0 parts of {SLICES}\)"),
        ((), 1, r"damaged \("),
    ],
)
def test_a_damaged_list_of_parts_is_named(
    shop: Shop, embedded: Path, tmp_path: Path, path: tuple[str | int, ...], new: Any, message: str
) -> None:
    vectors = shutil.copytree(embedded, tmp_path / "vectors")
    of_parts = vectors / "embeddings.json"
    of_parts.write_text(json.dumps(edited(json.loads(of_parts.read_text()), path, new)))
    with pytest.raises(DataError, match=rf"^{of_parts}: {message}.*; run the same embed-items again$"):
        command("add-items", "--store", shop.store.root, "--vectors", vectors)


def test_a_list_without_its_last_part_is_named(shop: Shop, embedded: Path, tmp_path: Path) -> None:
    vectors = shutil.copytree(embedded, tmp_path / "vectors")
    of_parts = vectors / "embeddings.json"
    of_parts.write_text(json.dumps({"parts": json.loads(of_parts.read_text())["parts"][:-1]}))
    with pytest.raises(DataError, match=rf"it lists {SLICES - 1} parts of {SLICES}"):
        command("add-items", "--store", shop.store.root, "--vectors", vectors)


@pytest.mark.parametrize("to", ["items", "link"])
def test_vectors_are_not_written_to_the_folder_of_the_table(shop: Shop, tmp_path: Path, to: str) -> None:
    table = write_items(tmp_path / "items")
    (tmp_path / "link").symlink_to(table)
    before = sorted(table.iterdir())
    with pytest.raises(DataError, match=rf"--to is .*{to}, the folder of the items table itself; name another folder"):
        embed(shop.store.root, table, tmp_path / to)
    assert sorted(table.iterdir()) == before
