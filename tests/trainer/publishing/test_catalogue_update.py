"""Catalogue updates: only new and changed items are embedded; all other vectors stay bit-identical."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annoy import AnnoyIndex

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.errors import BundleRefused, StoreError
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, INDEX, ITEM_TOWER, ITEMS, MANIFEST, VECTORS, VOCABULARIES
from retrieval.bundle.manifest import GateResult
from retrieval.index import recall
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer.errors import DataError
from trainer.publishing import catalogue_update, index_selection
from trainer.publishing.catalogue_notes import note_lost_zeros
from trainer.training.saved_run import Run

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

HEADER = "product,title,year,genres\n"


@pytest.fixture
def shop_store(shop: Shop, tmp_path: Path) -> FolderStore:
    shutil.copytree(shop.store.root, tmp_path / "store")
    return FolderStore(tmp_path / "store")


def add_items(store: FolderStore, *arguments: Any) -> dict[str, Any]:
    return json.loads(command("add-items", "--store", store.root, "--json", *arguments) or "{}")


def catalogue(store: FolderStore, version: str) -> tuple[ItemTable, np.ndarray]:
    folder = store.path(version)
    return ItemTable.read(folder / ITEMS, store.manifest(version).attributes), np.load(folder / VECTORS)


def test_new_changed_and_withdrawn_items(shop_store: FolderStore, tmp_path: Path) -> None:
    base = shop_store.live().version
    old_items, old_vectors = catalogue(shop_store, base)
    # p00 to p39 are comedy, drama, horror, western in turn; p01 is "Title 1, the film" of 1981, of the genre drama.
    (tmp_path / "new.csv").write_text(
        HEADER + "z1,Brand new,1999,horror\n" + 'p01,"Title 1, the film",1981,drama\n' + "p03,Renamed,1990,comedy\n"
    )
    (tmp_path / "gone.txt").write_text("p05\n\n p06 \n")
    result = add_items(
        shop_store,
        "--items",
        tmp_path / "new.csv",
        "--remove",
        tmp_path / "gone.txt",
        "--remove-id",
        "p07",
        "--promote",
    )
    assert {name: result[name] for name in ("base", "added", "changed", "removed", "unchanged")} == {
        "base": base,
        "added": 1,
        "changed": 1,
        "removed": 3,
        "unchanged": 1,
    }
    version = result["bundle_version"]
    assert shop_store.live().open_versions == (version, base)
    manifest, before = shop_store.verify(version), shop_store.manifest(base)
    assert (manifest.model_version, manifest.parent_version) == (before.model_version, base)
    assert (manifest.item_count, manifest.metrics) == (38, before.metrics)

    items, vectors = catalogue(shop_store, version)
    gone = {"p05", "p06", "p07"}
    assert items.ids == (*(i for i in old_items.ids if i not in gone), "z1")
    for item_id in set(items.ids) - {"z1", "p03"}:
        np.testing.assert_array_equal(vectors[items.rows[item_id]], old_vectors[old_items.rows[item_id]])
        for name in ("title", "year", "genres"):
            found = items.attributes[name].at(items.rows[item_id])
            assert found == old_items.attributes[name].at(old_items.rows[item_id])
    row = items.rows["p03"]
    assert [items.attributes[n].at(row) for n in ("title", "year", "genres")] == ["Renamed", 1990, ("comedy",)]
    assert not np.array_equal(vectors[row], old_vectors[old_items.rows["p03"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)

    # The query side is the same, file by file; the rest is of the new catalogue.
    same = [n for n in before.files if n.startswith("query_tower") or n in (ITEM_TOWER, VOCABULARIES)]
    assert len(same) > 5
    assert [manifest.files[n] for n in same] == [before.files[n] for n in same]
    assert manifest.files.keys() == before.files.keys()
    assert all(os.stat(shop_store.path(version) / n).st_nlink == 1 for n in same)
    built = AnnoyIndex(8, "angular")
    built.load(str(shop_store.path(version) / INDEX))
    assert built.get_n_items() == 38
    np.testing.assert_array_equal(built.get_item_vector(row), vectors[row])
    golden_queries, old = (GoldenQueries.read(shop_store.path(v) / GOLDEN_QUERIES) for v in (version, base))
    np.testing.assert_array_equal(golden_queries.embeddings, old.embeddings)
    scores = golden_queries.embeddings @ vectors.T
    assert [top[0] for top in golden_queries.top_items] == [items.ids[r] for r in scores.argmax(axis=1)]
    report = json.loads((shop_store.path(version) / "evaluation.json").read_text())
    assert "1 items were added, 1 changed and 3 removed" in report["note"]
    assert report["gates"]["ann_recall"]["figure"] == manifest.index.recall_at_100


def test_new_item_is_where_the_item_tower_puts_it(shop: Shop, shop_store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(HEADER + "z1,New,,western\nz2,New,2001,drama|new\n")
    version = add_items(shop_store, "--items", tmp_path / "new.csv")["bundle_version"]
    items, vectors = catalogue(shop_store, version)
    run = Run.load(shop.runs[0])
    # An independent way to the same: the run's own tower and schema.
    columns = {"item_id": ["z1", "z2"], "year": [None, 2001], "genres": [["western"], ["drama", "new"]]}
    expected = run.model.towers[1].predict(run.model.schemas.item.encode(columns, 2), verbose=0)
    np.testing.assert_allclose(vectors[[items.rows["z1"], items.rows["z2"]]], expected, atol=1e-6)


def test_a_bundle_whose_recipe_holds_a_removed_key_that_was_switched_off_takes_new_items(
    shop_store: FolderStore, tmp_path: Path
) -> None:
    base = shop_store.live().version
    path = shop_store.path(base) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["recipe"]["query_tower"]["interests"] = 1  # as earlier versions wrote it
    path.write_text(json.dumps(manifest))
    (tmp_path / "new.csv").write_text(HEADER + "z1,New,,western\n")
    assert add_items(shop_store, "--items", tmp_path / "new.csv")["added"] == 1


def test_new_item_is_near_its_kind(shop: Shop, tmp_path: Path) -> None:
    # Trained for longer than the shared shop, until genres show.
    store, run = FolderStore(tmp_path / "store"), tmp_path / "run"
    train = ("train", shop.recipe, "--data", shop.recipe.parent, "--epochs", 12, "--run", run)
    command(*train, "--store", store.root, "--promote")
    genres = ("comedy", "drama", "horror", "western")
    (tmp_path / "new.csv").write_text(HEADER + "".join(f"z{n},New,2000,{g}\n" for n, g in enumerate(genres)))
    items, vectors = catalogue(store, add_items(store, "--items", tmp_path / "new.csv")["bundle_version"])
    for number in range(4):
        scores = vectors[:40] @ vectors[items.rows[f"z{number}"]]
        of_genre = [scores[genre::4].mean() for genre in range(4)]
        assert int(np.argmax(of_genre)) == number


def test_rows_as_they_are_make_no_bundle(shop_store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "same.csv").write_text(HEADER + 'p01,"Title 1, the film",1981,drama\n')
    before = shop_store.versions()
    assert add_items(shop_store, "--items", tmp_path / "same.csv")["bundle_version"] is None
    assert shop_store.versions() == before


@pytest.mark.parametrize(
    ("table", "removals", "message"),
    [
        (None, ["p01", "x9", "x8"], r"2 of 3 ids to remove are not in bundle .*'x8', 'x9'"),
        ("p01,Other,1981,drama\n", ["p01"], r"1 of 1 ids to remove are in .*new\.csv too, for instance 'p01'"),
        ("", [], "no rows"),
        ("z1,a,1999,drama\nz1,b,1999,drama\n", [], "'z1'.*is in several rows"),
        ("z1,a,MCM,drama\n", [], r"column 'year': line 2: 'MCM'"),
        (None, [f"p{n:02}" for n in range(40)], "all 40 items would be removed"),
    ],
)
def test_wrong_changes_are_told(
    shop_store: FolderStore, tmp_path: Path, table: str | None, removals: list[str], message: str
) -> None:
    path = None
    if table is not None:
        path = tmp_path / "new.csv"
        path.write_text(HEADER + table)
    base = shop_store.manifest(shop_store.live().version)
    with pytest.raises(DataError, match=message):
        catalogue_update.find_changes(shop_store, base, path, removals)


def test_wrong_command_lines_are_told(
    shop_store: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (([], "nothing to add or remove"), (["--remove", tmp_path / "no"], "no: cannot be read")):
        with pytest.raises((SystemExit, DataError)) as caught:
            add_items(shop_store, *arguments)
        assert message in f"{capsys.readouterr().err} {caught.value}"
    (tmp_path / "short.csv").write_text("product,title\nz1,New\n")
    with pytest.raises(DataError, match=r"no column .*'genres'.*; its columns are \['product', 'title'\]"):
        add_items(shop_store, "--items", tmp_path / "short.csv")


def test_changes_of_a_bundle_that_is_live_no_more_are_not_promoted(
    shop: Shop, shop_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = catalogue_update.publish_changes

    def overtaken(*arguments: Any) -> Any:
        shop_store.promote(shop.versions[1])
        return publish(*arguments)

    monkeypatch.setattr(catalogue_update, "publish_changes", overtaken)
    with pytest.raises(StoreError, match=f"{shop.versions[1]} is live now, and not {shop.versions[0]}"):
        add_items(shop_store, "--remove-id", "p01", "--promote")
    assert shop_store.live().version == shop.versions[1]


def test_refused_model_does_not_go_live_by_way_of_a_catalogue_update(shop_store: FolderStore, shop: Shop) -> None:
    bad = shop.versions[1]
    path = shop_store.path(bad) / "manifest.json"
    failed = GateResult(0.1, 0.2, False, "mrr is 0.1000, at least 0.2000 is required")
    path.write_text(replace(shop_store.manifest(bad), gates={"beats_popularity/mrr": failed}).to_json())
    with pytest.raises(BundleRefused, match="beats_popularity/mrr"):
        add_items(shop_store, "--bundle", bad, "--remove-id", "p01", "--promote")
    shop_store.promote(bad, force=True)
    version = add_items(shop_store, "--remove-id", "p01", "--promote")["bundle_version"]
    assert shop_store.manifest(version).forced_gates == ("beats_popularity/mrr",)


def test_budget_rises_where_the_old_one_finds_too_little(shop_store: FolderStore, monkeypatch: Any) -> None:
    monkeypatch.setattr(recall, "NEIGHBOURS", 10)
    vectors = np.random.default_rng(1).normal(size=(2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    old = replace(shop_store.manifest(shop_store.live().version).index, search_budget=10)
    path = shop_store.root / "index"
    low = index_selection.rebuild(vectors, vectors[:50], path, old=old, min_recall=0.01)
    high = index_selection.rebuild(vectors, vectors[:50], path, old=old, min_recall=0.9)
    assert (low.search_budget, low.parameters) == (10, old.parameters)
    assert high.search_budget > 10
    assert high.recall_at_100 == recall.measure_recall(path, vectors, vectors[:50], high) >= 0.9


def test_ids_that_lost_their_zeros_are_told() -> None:
    known = ("000003", "17", "p04")
    assert note_lost_zeros(["18", "p4"], known) == []
    assert note_lost_zeros(["3", "018", "0017"], known) == [
        "2 of 3 added ids differ from an item's id in zeros at the beginning alone, such as '0017' and '17': if a "
        "program has removed zeros, these are not new items."
    ]


def test_values_that_the_model_does_not_know_are_told(shop_store: FolderStore, tmp_path: Path) -> None:
    base = shop_store.manifest(shop_store.live_version())
    path = tmp_path / "new.csv"
    path.write_text("product,title,year,genres\nx1,New,1999,opera|drama\nx2,Known,1999,drama\n")
    notes = catalogue_update.find_changes(shop_store, base, path, []).notes
    assert notes == (
        "1 of 2 values of 'genres' are new to the model, such as 'opera': the items are placed by their other "
        "attributes until a training has seen these values.",
        "2 of 2 added items, such as 'x1', are placed by their attributes alone until the next training. The item "
        "tower was trained with 0.05 dropout of item_id: the lower it is, the more rarely such items are among the "
        "first. A recipe with 0.3 places them better.",
        "2 of 2 added items, such as 'x1', count as unknown in a user's 'history' until the next training.",
    )


def test_an_item_that_comes_back_is_known_in_histories(shop_store: FolderStore, tmp_path: Path) -> None:
    withdrawn = add_items(shop_store, "--remove-id", "p05", "--promote")["bundle_version"]
    path = tmp_path / "new.csv"
    path.write_text(HEADER + "p05,Title 5,1985,drama\n")
    changes = catalogue_update.find_changes(shop_store, shop_store.manifest(withdrawn), path, [])
    assert (list(changes.added), changes.notes) == (["p05"], ())
