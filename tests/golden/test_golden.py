"""Golden bundles of earlier versions: they open, and give the answers that were recorded when they were made."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loader import Model, ModelLoader
from query_tower_service.text_metrics import TextMetrics
from retrieval.bundle.catalogue.parts import parts_of, read_items
from retrieval.bundle.errors import BundleRefused
from tests.golden.golden import ANSWERS, Golden
from tests.harness import ann_service, query_tower_service
from two_tower_client import Retriever

IN_ONE_PIECE = ("plain", "text", "events", "age_decay_popularity")
OPENED = (*IN_ONE_PIECE, "shards")
"""Bundles that this code opens."""
REFUSED = ("interests",)
"""Bundles that this code refuses to open; a test shows what it says."""
SERVED = ("plain", "text", "shards")
"""Bundles that both services serve here, through the client."""

TOP = 5
WHOLE_CATALOGUE = 10_000
"""A search budget that inspects every item, whatever the kind of index."""
ATOL = 1e-5

every_golden = pytest.mark.parametrize("golden", OPENED, indirect=True)
in_one_piece = pytest.mark.parametrize("golden", IN_ONE_PIECE, indirect=True)
in_shards = pytest.mark.parametrize("golden", ["shards"], indirect=True)


def open_query_side(golden: Golden) -> Model:
    """Returns the model that the query tower service opens, after its load gates."""
    loader = ModelLoader(golden.store, QueryTowerConfig(store=golden.store.root), TextMetrics(CollectorRegistry()))
    return loader.open(golden.version, ())


def open_item_side(golden: Golden) -> Catalogue:
    """Returns the catalogue that the ANN service opens, after its load gates."""
    return CatalogueLoader(golden.store, AnnConfig(store=golden.store.root)).open(golden.version, ())


def test_every_golden_bundle_has_a_test() -> None:
    assert {*OPENED, *REFUSED} == ANSWERS.keys()


@every_golden
def test_the_store_lists_verifies_and_promotes_it(golden: Golden) -> None:
    assert golden.store.versions() == [golden.version]
    manifest = golden.store.verify(golden.version)  # hashes every file
    assert manifest.item_count == 24
    assert set(manifest.files) == {
        path.relative_to(golden.folder).as_posix()
        for path in golden.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    golden.store.promote(golden.version)
    assert golden.store.live_version() == golden.version


@every_golden
def test_the_query_tower_makes_the_recorded_embeddings(golden: Golden) -> None:
    model = open_query_side(golden)
    queries = [query["features"] for query in golden.answers["queries"]]
    names = {name for features in queries for name in features}
    columns = {name: [features.get(name) for features in queries] for name in names}
    expected = np.array([query["embedding"] for query in golden.answers["queries"]])
    np.testing.assert_allclose(model.tower.embed(columns, len(queries)), expected, atol=ATOL)
    for row, features in enumerate(queries):  # alone, which may take another path than a batch
        alone = model.tower.embed({name: [value] for name, value in features.items()}, 1)
        np.testing.assert_allclose(alone, expected[row : row + 1], atol=ATOL)


@in_one_piece
def test_the_index_finds_the_recorded_items(golden: Golden) -> None:
    catalogue = open_item_side(golden)
    embeddings = np.array([query["embedding"] for query in golden.answers["queries"]], dtype=np.float32)
    found = catalogue.index.search(embeddings, TOP, WHOLE_CATALOGUE)
    for (rows, scores), query in zip(found, golden.answers["queries"], strict=True):
        assert [catalogue.items.ids[row] for row in rows] == query["top_items"]
        np.testing.assert_allclose(scores, query["top_scores"], atol=ATOL)


@pytest.mark.parametrize("golden", REFUSED, indirect=True)
def test_several_interests_are_refused_with_what_to_do(golden: Golden) -> None:
    message = r"several embeddings for each query.*remove the key from the recipe, train and publish again"
    for opening in (open_query_side, open_item_side):
        with pytest.raises(BundleRefused, match=message):
            opening(golden)


@in_shards
def test_each_shard_opens_and_holds_its_items(golden: Golden) -> None:
    loader = CatalogueLoader(golden.store, AnnConfig(store=str(golden.store.root)))
    catalogues = loader.open_parts(golden.version, parts_of(golden.store.manifest(golden.version)), ())
    # 24 items in five shards.
    assert [len(catalogue.items.ids) for catalogue in catalogues] == [4, 5, 5, 5, 5]
    assert [item_id for catalogue in catalogues for item_id in catalogue.items.ids] == [
        f"p{row:02}" for row in range(24)
    ]


@every_golden
def test_items_have_the_recorded_attributes(golden: Golden) -> None:
    manifest = golden.store.manifest(golden.version)
    items = read_items(golden.folder, manifest, manifest.attributes)
    found = {
        item_id: {name: column.at(row) for name, column in items.attributes.items()}
        for row, item_id in enumerate(items.ids)
    }
    # Through JSON, as the recorded ones went: a tuple is a list there.
    assert json.loads(json.dumps(found)) == golden.answers["attributes"]


@pytest.mark.parametrize("golden", ["text"], indirect=True)
def test_the_lexical_index_finds_the_recorded_items(golden: Golden) -> None:
    catalogue = open_item_side(golden)
    assert catalogue.lexical is not None
    assert catalogue.lexical.attributes == ("title",)
    for search in golden.answers["searches"]:
        rows = catalogue.lexical.index.rank(search["text"], TOP)
        assert [catalogue.items.ids[row] for row in rows] == search["lexical_items"]
        scores = catalogue.lexical.index.scores(search["text"])[rows]
        np.testing.assert_allclose(scores, search["lexical_scores"], rtol=1e-5)


@pytest.mark.parametrize("golden", SERVED, indirect=True)
def test_both_services_serve_it(golden: Golden) -> None:
    golden.store.promote(golden.version)
    with query_tower_service(golden.store) as query_tower, ann_service(golden.store) as ann:
        query_tower.wait_for_bundle(golden.version)
        ann.wait_for_bundle(golden.version)
        with Retriever(f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}", timeout_s=10.0) as retriever:
            for query in golden.answers["queries"]:
                answer = retriever.retrieve(query["features"], k=TOP, return_attributes=["title"])
                assert list(answer.item_ids) == query["top_items"]
                np.testing.assert_allclose(answer.scores, query["top_scores"], atol=ATOL)
                titles = [golden.answers["attributes"][item_id]["title"] for item_id in answer.item_ids]
                assert list(answer.attributes["title"]) == titles
            first = golden.answers["queries"][0]["features"]
            for search in golden.answers.get("searches", ()):
                text = search["text"]
                lexical = retriever.retrieve({}, k=TOP, text=text, ranking="lexical")
                features = {"query": text} if "query" in first else first
                fused = retriever.retrieve(features, k=TOP, text=text, ranking="fused")
                assert list(lexical.item_ids) == search["lexical_items"]
                assert list(fused.item_ids) == search["fused_items"]
                np.testing.assert_allclose(lexical.scores, search["lexical_scores"], rtol=1e-5)
                np.testing.assert_allclose(fused.scores, search["fused_scores"], rtol=1e-5)
            if popular := golden.answers.get("popular"):
                answer = retriever.popular(k=TOP)
                assert list(answer.item_ids) == popular["items"]
                np.testing.assert_allclose(answer.scores, popular["scores"], rtol=1e-5)
