"""Embedding in processes of this machine: right, the same each time, resumable, and refused where it has to be."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS, VECTORS
from retrieval.store.folder_store import FolderStore
from testbed.s3_server import S3Server
from tests.trainer.embedding.catalogue import ROWS, SLICES, arguments, embed, parts, products, start, write_items
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from tests.worlds import wait_for
from trainer.embedding import results, tasks
from trainer.embedding.places import open_place
from trainer.embedding.plan import installed_packages
from trainer.errors import DataError
from trainer.training.saved_run import Run

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The items table, not to be changed."""
    return write_items(tmp_path_factory.mktemp("table") / "items")


@pytest.fixture(scope="module")
def embedded(shop: Shop, items: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its vectors, not to be changed."""
    to = tmp_path_factory.mktemp("embedded") / "vectors"
    done = embed(shop.store.root, items, to)
    assert {name: done[name] for name in ("items", "files", "parts", "computed", "damaged")} == {
        "items": 80, "files": 4, "parts": SLICES, "computed": SLICES, "damaged": 0,
    }  # fmt: skip
    return to


@pytest.fixture
def copied(items: Path, embedded: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The table and its vectors, which may be changed; the vectors are of this table, by its content."""
    shutil.copytree(items, tmp_path / "items")
    shutil.copytree(embedded, tmp_path / "vectors")
    return tmp_path / "items", tmp_path / "vectors"


def test_the_vectors_are_those_of_the_item_tower(shop: Shop, embedded: Path) -> None:
    paths = sorted((embedded / "parts").glob("*.parquet"))
    frame = pl.concat(pl.read_parquet(path) for path in paths)
    assert frame["id"].to_list() == [f"q{number:03}" for number in range(80)]
    assert [pl.read_parquet(path).height for path in paths] == [10, 10, 5, 10, 10, 10, 1, 10, 10, 4]
    # An independent way to the same: the run's own tower and schema.
    run, rows = Run.load(shop.runs[0]), products(0, 80)
    columns = {
        "item_id": rows["product"].to_list(),
        "year": rows["year"].to_list(),
        "genres": [genres.split("|") for genres in rows["genres"]],
    }
    expected = run.model.towers[1].predict(run.model.schemas.item.encode(columns, 80), verbose=0)
    np.testing.assert_allclose(frame["vector"].to_numpy(), expected, atol=1e-6)


def test_bytes_do_not_depend_on_the_number_of_processes(
    shop: Shop, items: Path, embedded: Path, tmp_path: Path
) -> None:
    embed(shop.store.root, items, tmp_path / "vectors", processes=2)
    assert parts(tmp_path / "vectors") == parts(embedded)
    for name in ("plan.json", "embeddings.json"):
        assert (tmp_path / "vectors" / name).read_bytes() == (embedded / name).read_bytes()


def test_goes_on_after_sigkill_and_computes_no_part_again_but_a_damaged_one(
    shop: Shop, items: Path, embedded: Path, tmp_path: Path
) -> None:
    to = tmp_path / "vectors"
    with start(arguments(shop.store.root, items, to, slice_rows=1)) as process:
        wait_for(lambda: len(list((to / "parts").glob("*.parquet"))) >= 3, "three parts", 120)
        process.send_signal(signal.SIGKILL)
    there = {path.name: path.stat() for path in (to / "parts").glob("*.parquet")}
    assert 3 <= len(there) < 80
    assert not (to / "embeddings.json").exists()
    damaged = to / "parts" / min(there)
    os.truncate(damaged, 100)

    done = embed(shop.store.root, items, to, slice_rows=1)

    # The process that was embedding may have written one more part before it noticed.
    assert 80 - len(there) <= done["computed"] <= 81 - len(there)
    assert (done["parts"], done["damaged"]) == (80, 1)
    for name in there.keys() - {damaged.name}:
        now = (to / "parts" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (there[name].st_ino, there[name].st_mtime_ns)
    assert len(parts(to)) == 80
    one_row = pl.read_parquet(to / "parts" / sorted(parts(to))[0])
    whole = pl.read_parquet(sorted((embedded / "parts").glob("*.parquet"))[0])
    np.testing.assert_allclose(one_row["vector"].to_numpy(), whole["vector"].to_numpy()[:1], atol=1e-6)


def test_after_ctrl_c_it_says_how_to_go_on_and_leaves_nothing_behind(shop: Shop, items: Path, tmp_path: Path) -> None:
    to = tmp_path / "vectors"
    with start(arguments(shop.store.root, items, to, slice_rows=1, processes=2)) as process:
        wait_for(lambda: len(list((to / "parts").glob("*.parquet"))) >= 3, "three parts", 120)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.endswith("stopped; the same command goes on after the parts that are complete\n")
    assert "leaked" not in told
    assert "Traceback" not in told
    assert len(parts(to)) < 80


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.csv", "product\nq1\n", "--items takes Parquet alone, .* `add-items --items` takes CSV too"),
        ("nope.parquet", None, "no such file or folder; check the path of --items"),
        ("nope", None, "no such file or folder; check the path of --items"),
    ],
)
def test_what_is_no_parquet_file_is_told_apart(
    shop: Shop, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        embed(shop.store.root, tmp_path / name, tmp_path / "vectors")


def test_vectors_of_something_else_are_refused_and_a_copy_of_the_same_is_not(
    shop: Shop, copied: tuple[Path, Path]
) -> None:
    table, vectors = copied
    os.utime(table / "part-2.parquet")  # written anew, with the same content
    assert embed(shop.store.root, table, vectors)["computed"] == 0

    with pytest.raises(DataError, match=r"slices of 10 rows, not of 7.*Name another folder with --to"):
        embed(shop.store.root, table, vectors, slice_rows=7)
    with pytest.raises(DataError, match=f"item tower of {shop.versions[0]}, which is not that of {shop.versions[1]}"):
        embed(shop.store.root, table, vectors, "--bundle", shop.versions[1])
    content = bytearray((table / "part-0.parquet").read_bytes())
    content[10] ^= 1  # the size stays
    (table / "part-0.parquet").write_bytes(content)
    products(90, 95).write_parquet(table / "part-9.parquet")
    with pytest.raises(DataError, match=r"part-0\.parquet has another content; part-9\.parquet is new"):
        embed(shop.store.root, table, vectors)
    (vectors / "plan.json").unlink()
    with pytest.raises(DataError, match=r"holds parts without plan\.json"):
        embed(shop.store.root, table, vectors)


def test_bad_rows_are_told_by_file_and_row_before_anything_is_embedded(shop: Shop, items: Path, tmp_path: Path) -> None:
    table = shutil.copytree(items, tmp_path / "items")
    years = products(25, 56).with_columns(pl.col("year").cast(pl.String))
    years[12, "year"], years[29, "year"] = "next year", "soon"
    years.write_parquet(table / "part-2.parquet")
    nameless = products(56, 80)
    nameless[3, "product"] = None
    nameless.write_parquet(table / "part-3.parquet")
    with pytest.raises(DataError) as caught:
        embed(shop.store.root, table, tmp_path / "vectors")
    found = str(caught.value).splitlines()[1:]
    assert [line.split(";")[0] for line in found] == [
        "part-2.parquet, column 'year': row 13: 'next year' is not a finite number",
        "part-2.parquet, column 'year': row 30: 'soon' is not a finite number",
        "part-3.parquet, column 'product': row 4: an empty cell where every row needs a value",
    ]
    assert not (tmp_path / "vectors").exists()


def test_an_id_in_two_files_is_refused_with_both_places(shop: Shop, items: Path, tmp_path: Path) -> None:
    table = shutil.copytree(items, tmp_path / "items")
    double = products(56, 80)
    double[20, "product"] = "q003"
    double.write_parquet(table / "part-3.parquet")
    message = r"1 ids are in several rows: 'q003' in part-0\.parquet, row 4 and part-3\.parquet, row 21; keep one row"
    with pytest.raises(DataError, match=message):
        embed(shop.store.root, table, tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_a_bundle_is_made_of_the_vectors(shop: Shop, copied: tuple[Path, Path], tmp_path: Path) -> None:
    table, vectors = copied
    shutil.copytree(shop.store.root, tmp_path / "store")
    store = FolderStore(tmp_path / "store")

    def add(*others: Any) -> dict[str, Any]:
        return json.loads(command("add-items", "--store", store.root, "--vectors", vectors, "--json", *others))

    # The plan names the first table, of which this one is a copy.
    done = add("--remove-id", "p05", "--promote")
    assert (done["added"], done["removed"], done["unchanged"]) == (sum(ROWS), 1, 0)
    manifest = store.verify(done["bundle_version"])
    folder = store.path(manifest.bundle_version)
    catalogue, stored = ItemTable.read(folder / ITEMS, manifest.attributes), np.load(folder / VECTORS)
    for path in (vectors / "parts").glob("*.parquet"):
        frame = pl.read_parquet(path)
        rows = [catalogue.rows[item_id] for item_id in frame["id"]]
        np.testing.assert_array_equal(stored[rows], frame["vector"].to_numpy())
    row = catalogue.rows["q007"]
    assert [catalogue.attributes[n].at(row) for n in ("title", "year", "genres")] == [
        "Title 7",
        1977,
        ("western", "new"),
    ]
    assert add()["unchanged"] == sum(ROWS)

    (vectors / "embeddings.json").unlink()
    with pytest.raises(DataError, match=r"no complete vectors \(embeddings\.json is missing\)"):
        add()
    embed(store.root, table, vectors)
    part = min((vectors / "parts").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[::-1])
    with pytest.raises(DataError, match="damaged; run the same embed-items again"):
        add()


@pytest.mark.parametrize(("pauses_s", "is_done"), [((), False), ((0.0,), True)])
def test_a_task_whose_bucket_throttles_is_tried_again(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, pauses_s: tuple[float, ...], is_done: bool
) -> None:
    place = open_place(f"{s3.url}/vectors")
    results.write_part(place, 0, ["q1"], np.ones((1, 1), dtype=np.float32))
    [part] = results.find_parts(place)
    job = tasks.Job("store", "20260101T000000Z-000000", "items", place.name, installed_packages())
    monkeypatch.setattr(tasks, "_PAUSES_S", pauses_s)
    s3.faults.refuse = 4  # one request, and its three retries

    result = tasks.run(job, "is_whole", part)

    assert s3.faults.refuse == 0
    assert result is True if is_done else isinstance(result, tasks.Fault) and not result.is_data
