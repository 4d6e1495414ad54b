"""A recipe with shards: trained, measured, served, evaluated and updated like one catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bundle.catalogue.parts import parts_of, read_items, read_popularity, read_vectors
from retrieval.bundle.layout import CATALOGUE_FILES, GOLDEN_QUERIES
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from tests.harness import ann_service
from tests.trainer.world import KERAS_AND_NUMPY, command, write_shop
from two_tower.ann.v1 import ann_service_pb2 as pb

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def train(folder: Path, shards: int) -> tuple[FolderStore, Path, dict[str, Any]]:
    """Returns the store, the run and the printed result of a training of the shop."""
    recipe, run = write_shop(folder / "data"), folder / "run"
    recipe.write_text(recipe.read_text().replace("[index]", f"[index]\nshards = {shards}"))
    done = command("train", recipe, "--store", folder / "store", "--json", "--run", run, "--promote", "--force")
    return FolderStore(folder / "store"), run, json.loads(done)


@pytest.fixture(scope="module")
def shop_in_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderStore, Path, dict[str, Any]]:
    return train(tmp_path_factory.mktemp("shop"), 3)


def search_all(store: FolderStore, manifest: Manifest) -> list[pb.SearchResult]:
    """Returns the results of a search of each kind for all items, from a running service."""
    searches = [
        pb.Search(similar_to=pb.ItemIds(values=["p03"]), k=50, exact=True, return_attributes=["title", "genres"]),
        pb.Search(text="title film", ranking=pb.RANKING_LEXICAL, k=50),
        pb.Search(popular=pb.Popular(), k=50),
    ]
    with ann_service(store) as service:
        service.wait_for_bundle(manifest.bundle_version)
        return list(service.stub.SearchItems(pb.SearchItemsRequest(searches=searches), timeout=20).results)


def test_publishes_shards_that_answer_as_one_catalogue(
    shop_in_shards: tuple[FolderStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, _, result = shop_in_shards
    manifest = store.verify(result["bundle_version"])
    assert (manifest.format_version, [shard.item_count for shard in manifest.shards]) == (3, [13, 13, 14])
    assert not manifest.files.keys() & set(CATALOGUE_FILES)
    for part in parts_of(manifest):
        assert part.manifest.files.keys() == {*CATALOGUE_FILES, GOLDEN_QUERIES}
    assert manifest.gates["ann_recall"].figure == manifest.index.recall_at_100 >= 0.95
    assert sum(shard.event_count for shard in manifest.shards) > 500

    # The same recipe without shards trains the same towers.
    whole_store, _, whole = train(tmp_path, 1)
    folder, whole_folder = store.path(manifest.bundle_version), whole_store.path(whole["bundle_version"])
    whole_manifest = whole_store.manifest(whole["bundle_version"])
    np.testing.assert_array_equal(read_vectors(folder, manifest), read_vectors(whole_folder, whole_manifest))
    counts = read_popularity(folder, manifest)
    assert counts is not None
    np.testing.assert_array_equal(counts, read_popularity(whole_folder, whole_manifest))
    for one, other in zip(search_all(store, manifest), search_all(whole_store, whole_manifest), strict=True):
        assert list(one.item_ids) == list(other.item_ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        assert list(one.attributes) == list(other.attributes)


def test_a_bundle_in_shards_is_evaluated_compared_and_updated(
    shop_in_shards: tuple[FolderStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, run, result = shop_in_shards
    base = store.manifest(result["bundle_version"])
    assert json.loads(command("evaluate", run, "--store", store.root, "--no-baselines", "--json"))
    # Published once more, it is compared with the live bundle, whose embeddings are the same.
    again = json.loads(command("publish", run, "--store", store.root, "--json"))
    compared = store.manifest(again["bundle_version"]).gates
    assert compared["worse_than_live/ndcg@10"].passed
    assert "worse_than_live/ndcg@10" not in base.gates  # nothing was live

    (tmp_path / "new.csv").write_text("product,title,year,genres\nz1,Brand new,1999,horror\n")
    updated = json.loads(
        command("add-items", "--store", store.root, "--items", tmp_path / "new.csv", "--remove-id", "p07", "--json")
    )
    manifest = store.verify(updated["bundle_version"])
    assert [shard.item_count for shard in manifest.shards] == [13, 13, 14]
    items = read_items(store.path(manifest.bundle_version), manifest, manifest.attributes)
    assert list(items.ids) == [*(f"p{number:02}" for number in range(40) if number != 7), "z1"]
    store.promote(manifest.bundle_version, force=True)
    [similar, lexical, _] = search_all(store, manifest)
    assert "z1" in similar.item_ids
    assert set(similar.item_ids) == set(items.ids) - {"p03"}
    assert "z1" not in lexical.item_ids


def test_more_shards_than_items_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"41 shards of 40 items.*lower index\.shards"):
        train(tmp_path, 41)
