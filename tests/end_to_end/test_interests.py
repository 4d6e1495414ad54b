"""A model of several interests from its training to its answers, and in turns with one of a single interest."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.canaries import GoldenQueries
from bundle.store import BundleStore
from rehearsal.load import Load
from rehearsal.offline import OfflineBundle
from tests.serving.harness import ann_service, query_tower_service
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from tests.worlds import wait_for
from trainer import data, splits
from trainer.embeddings import embed_items, embed_queries, raw_queries
from trainer.runs import Run
from two_tower_client import Retriever

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@dataclass(frozen=True)
class World:
    """The shop's store with a third bundle, of three interests, and what its towers make of all users.

    Attributes:
        store: the first bundle, of one interest, is live.
        one: its version.
        three: version of the bundle of three interests.
        run: folder of its run.
        queries: of all users, as callers send them.
        embeddings: [60, 3, 8] float32, by the trained tower.
        vectors: [40, 8] float32, by the trained tower.
        ids: [40] of the items.
    """

    store: BundleStore
    one: str
    three: str
    run: Path
    queries: list[dict[str, Any]]
    embeddings: np.ndarray
    vectors: np.ndarray
    ids: tuple[str, ...]


@pytest.fixture(scope="module")
def world(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("interests")
    shutil.copytree(shop.store.root, folder / "store")
    shutil.copytree(shop.recipe.parent, folder / "data")
    recipe = folder / "data" / "shop.toml"
    recipe.write_text(recipe.read_text().replace("[query_tower]", "[query_tower]\ninterests = 3"))
    command("train", recipe, "--store", folder / "store", "--run", folder / "run", "--json")
    run = Run.load(folder / "run")
    dataset = data.load(run.recipe, folder / "data")
    parts = splits.split(dataset, run.recipe.split)
    users = np.arange(60)
    columns = raw_queries(run.recipe, dataset, run.schemas, parts.known, users, parts.test)
    store = BundleStore(folder / "store")
    three = max(store.versions())
    return World(
        store,
        shop.versions[0],
        three,
        folder / "run",
        [{name: column[user] for name, column in columns.items()} for user in users],
        embed_queries(run.towers[0], run.schemas, columns, 60),
        embed_items(run.towers[1], run.schemas, dataset),
        dataset.items.ids,
    )


def test_the_bundle_says_how_many_interests_and_was_compared_with_the_live_one(world: World) -> None:
    manifest = world.store.manifest(world.three)
    assert (manifest.interests, manifest.query_shape, manifest.format_version) == (3, (3, 8), 2)
    assert world.store.manifest(world.one).interests == 1
    folder = world.store.path(world.three)
    golden_queries = GoldenQueries.read(folder / "canaries.json")
    assert golden_queries.embeddings.shape == (32, 3, 8)
    largest = (golden_queries.embeddings @ world.vectors.T).max(axis=1)  # [32, 40]
    np.testing.assert_allclose(golden_queries.top_scores, np.sort(largest, axis=1)[:, :-11:-1], atol=1e-5)
    comparison = json.loads((folder / "evaluation.json").read_text())["comparison"]
    assert (comparison["live"], comparison["not_comparable"]) == (world.one, "")
    assert "worse_than_live/ndcg@10" in manifest.gates
    assert 0 < comparison["overlap_at_10"] < 1


def test_served_answers_are_the_largest_products_of_the_trained_towers(world: World) -> None:
    world.store.promote(world.three, force=True)
    scores = (world.embeddings @ world.vectors.T).max(axis=1)  # [60, 40]
    with query_tower_service(world.store) as tower, ann_service(world.store) as catalogue:
        tower.wait_for_bundle(world.three)
        catalogue.wait_for_bundle(world.three)
        assert tower.status().models[0].interests == 3
        addresses = f"127.0.0.1:{tower.port}", f"127.0.0.1:{catalogue.port}"
        with Retriever(*addresses, timeout_s=10.0) as retriever:
            embedded = retriever.query_tower.embed(world.queries)
            answers = retriever.retrieve_batch(world.queries, k=10)
            unknown = retriever.retrieve(world.queries[0], k=10, exclude=world.queries[0]["history"])
    np.testing.assert_allclose(np.array(embedded.interests), world.embeddings, atol=1e-4)
    for user, answer in enumerate(answers):
        assert len(set(answer.item_ids)) == 10
        np.testing.assert_allclose(answer.scores, np.sort(scores[user])[::-1][:10], atol=1e-4)
        rows = [world.ids.index(item) for item in answer.item_ids]
        np.testing.assert_allclose(answer.scores, scores[user, rows], atol=1e-4)
    assert not set(unknown.item_ids) & set(world.queries[0]["history"])


def test_nothing_fails_or_is_mixed_while_one_and_three_interests_take_turns(world: World) -> None:
    store, one, three = world.store, world.one, world.three
    store.promote(one)
    offline = cache(lambda version: OfflineBundle(store, version, world.queries))
    with query_tower_service(store) as tower, ann_service(store) as catalogue:
        tower.wait_for_bundle(one)
        catalogue.wait_for_bundle(one)
        addresses = f"127.0.0.1:{tower.port}", f"127.0.0.1:{catalogue.port}"
        with (
            Retriever(*addresses, timeout_s=10.0) as retriever,
            Load(retriever, world.queries, offline, clients=2, k=4) as load,
        ):
            for version in (one, three, one):
                if version != store.live().version:
                    store.promote(version, force=True)
                tower.wait_for_bundle(version)
                catalogue.wait_for_bundle(version)
                before = load.tally.bundles[version]
                wait_for(lambda v=version, n=before: load.tally.bundles[v] >= n + 100, f"100 answers of {version}")
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)
    assert load.tally.bundles.keys() == {one, three}


def test_evaluation_through_the_export_and_the_index_is_that_of_the_towers(world: World) -> None:
    report = json.loads(command("evaluate", world.run, "--store", world.store.root, "--json"))
    metrics = report["metrics"]
    served = next(name for name in metrics if "served" in name)
    assert metrics[served]["recall@10"] == pytest.approx(metrics["two-tower"]["recall@10"], abs=0.02)
    assert metrics["two-tower"]["recall@10"] > 2 * metrics["popularity"]["recall@10"]


def test_items_are_added_to_a_bundle_of_several_interests(world: World, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("product,title,year,genres\nz1,Brand new,1999,horror\n")
    arguments = ("--store", world.store.root, "--bundle", world.three, "--items", tmp_path / "new.csv", "--json")
    added = json.loads(command("add-items", *arguments))["bundle_version"]
    manifest = world.store.manifest(added)
    assert (manifest.interests, manifest.item_count, manifest.format_version) == (3, 41, 2)
    golden_queries = GoldenQueries.read(world.store.path(added) / "canaries.json")
    vectors = np.load(world.store.path(added) / "vectors.npy")
    largest = (golden_queries.embeddings @ vectors.T).max(axis=1)  # [32, 41]
    np.testing.assert_allclose(golden_queries.top_scores, np.sort(largest, axis=1)[:, :-11:-1], atol=1e-5)


def test_indexes_are_tuned_on_single_interests(world: World, tmp_path: Path) -> None:
    out = tmp_path / "index.html"
    arguments = ("--store", world.store.root, "--bundle", world.three, "--kinds", "annoy", "--out", out, "--json")
    report = json.loads(command("tune-index", *arguments))
    assert report["exact_scan"]["recall_at_100"] == 1.0
    assert out.stat().st_size > 0
