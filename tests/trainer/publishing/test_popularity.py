"""The popularity of items in published bundles, and in catalogue updates of them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.layout import ITEMS, MANIFEST, POPULARITY
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture
def store(shop: Shop, tmp_path: Path) -> FolderStore:
    shutil.copytree(shop.store.root, tmp_path / "store")
    return FolderStore(tmp_path / "store")


def popularity(store: FolderStore, version: str) -> dict[str, int]:
    items = ItemTable.read(store.path(version) / ITEMS, store.manifest(version).attributes)
    counts = np.load(store.path(version) / POPULARITY)
    assert counts.dtype == np.uint32
    return dict(zip(items.ids, counts.tolist(), strict=True))


def add_items(store: FolderStore, folder: Path) -> str:
    (folder / "new.csv").write_text("product,title,year,genres\nz1,New,1999,horror\np03,Renamed,1990,comedy\n")
    arguments = ("--items", folder / "new.csv", "--remove-id", "p05", "--json", "--promote")
    return json.loads(command("add-items", "--store", store.root, *arguments))["bundle_version"]


def count_purchases(shop: Shop, held_out: int) -> dict[str, int]:
    """Returns the number of events of each item, without the last `held_out` events of each user."""
    purchases: dict[str, list[str]] = {}  # by user, in order of time, and of the file for equal times
    for row in csv.DictReader((shop.recipe.parent / "purchases.csv").read_text().splitlines()):
        purchases.setdefault(row["buyer"], []).append(row["product"])
    counts = Counter(item for items in purchases.values() for item in items[:-held_out])
    assert len(set(counts.values())) > 3
    return {f"p{row:02}": counts[f"p{row:02}"] for row in range(40)}


def test_counts_the_events_that_the_towers_were_trained_on(shop: Shop, store: FolderStore, tmp_path: Path) -> None:
    # The last event of each user is held out for the test and, unless refitted, the one before it for validation.
    assert popularity(store, shop.versions[0]) == count_purchases(shop, held_out=2)
    refit = ("--refit", "--epochs", 1, "--run", tmp_path / "run", "--store", store.root, "--json")
    refitted = json.loads(command("train", shop.recipe, *refit))["bundle_version"]
    assert popularity(store, refitted) == count_purchases(shop, held_out=1)


def test_a_catalogue_update_keeps_the_counts_and_new_items_have_none(store: FolderStore, tmp_path: Path) -> None:
    live = store.live()
    assert live is not None
    before = popularity(store, live.version)
    after = popularity(store, add_items(store, tmp_path))
    del before["p05"]
    assert after == {**before, "z1": 0}


def test_a_catalogue_update_of_an_earlier_bundle_has_no_popularity(store: FolderStore, tmp_path: Path) -> None:
    live = store.live()
    assert live is not None
    folder = store.path(live.version)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][POPULARITY]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / POPULARITY).unlink()
    assert POPULARITY not in store.verify(add_items(store, tmp_path)).files
