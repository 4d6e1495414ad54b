"""A bundle in shards answers as a bundle of the same items in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.store.folder_store import FolderStore
from tests.ann_service.shards.searches import (
    BUNDLE,
    INVALID,
    NEAREST,
    QUERY,
    SEARCHES,
    VECTORS,
    by_embedding,
    similar_to,
)
from tests.ann_service.world import World, ask, serving
from tests.harness import ann_service, failure
from tests.worlds import write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store"), **BUNDLE) as running:
        yield running


@pytest.fixture(scope="module", params=[2, 4])
def sharded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store"), shards=request.param, **BUNDLE) as running:
        yield running


def assert_equal(actual: pb.SearchItemsResponse, expected: pb.SearchItemsResponse) -> None:
    """Asserts that all results are the same; scores may be rounded differently, as a product of other matrices."""
    assert len(actual.results) == len(expected.results)
    for one, other in zip(actual.results, expected.results, strict=True):
        assert list(one.item_ids) == list(other.item_ids)
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)
        assert list(one.attributes) == list(other.attributes)
        assert list(one.facets) == list(other.facets)
        assert (one.candidate_count, one.shortened_by_group_limits) == (
            other.candidate_count,
            other.shortened_by_group_limits,
        )
        np.testing.assert_allclose(one.boosts, other.boosts, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.marginal_relevances, other.marginal_relevances, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SEARCHES)
def test_answers_as_one_catalogue(whole: World, sharded: World, name: str) -> None:
    actual = ask(sharded, SEARCHES[name])
    assert_equal(actual, ask(whole, SEARCHES[name]))
    assert actual.coverage == 1.0
    manifest = sharded[1]
    versions = (actual.model_version, actual.bundle_version, actual.newest_model_version)
    assert versions == (manifest.model_version, manifest.bundle_version, manifest.model_version)


def test_answers_searches_of_all_kinds_in_one_request(whole: World, sharded: World) -> None:
    every = list(SEARCHES.values())
    for searches in (every[:20], every[-20:][::-1], every[::2]):
        assert_equal(ask(sharded, *searches), ask(whole, *searches))


@pytest.mark.parametrize("name", INVALID)
def test_refuses_as_one_catalogue(whole: World, sharded: World, name: str) -> None:
    def refusal(world: World) -> tuple[str, str, object]:
        service, manifest = world
        request = pb.SearchItemsRequest(searches=INVALID[name], model_version=manifest.model_version)
        return failure(service.stub.SearchItems, request)

    assert refusal(sharded) == refusal(whole)


def test_the_index_of_each_shard_finds_at_least_as_much_as_one_index(whole: World, sharded: World) -> None:
    vectors = VECTORS[::20]
    searches = [by_embedding(vector, k=100, exact=False) for vector in vectors]
    nearest = np.argsort(-(vectors @ VECTORS.T), axis=1)[:, :100]  # [queries, 100]

    def recall(world: World) -> float:
        results = [
            result
            for start in range(0, len(searches), 20)
            for result in ask(world, *searches[start : start + 20]).results
        ]
        found = [{int(item_id[1:]) for item_id in result.item_ids} for result in results]
        return float(np.mean([len(f & set(n.tolist())) / 100 for f, n in zip(found, nearest, strict=True)]))

    assert recall(sharded) >= recall(whole) > 0.9


def test_calls_that_arrive_together_get_their_own_answers(sharded: World, whole: World) -> None:
    service, manifest = sharded
    names = ([*SEARCHES, *INVALID] * 2)[:90]  # fewer calls than a connection may have at once
    searches = {name: [search] for name, search in SEARCHES.items()} | INVALID
    requests = {
        name: pb.SearchItemsRequest(searches=searches[name], model_version=manifest.model_version) for name in names
    }
    calls = [service.stub.SearchItems.future(requests[name], timeout=30) for name in names]
    for name, call in zip(names, calls, strict=True):
        if name in SEARCHES:
            assert_equal(call.result(), ask(whole, SEARCHES[name]))
        else:
            assert call.exception().code().name in ("INVALID_ARGUMENT", "NOT_FOUND")


def test_the_status_says_how_many_shards_there_are(sharded: World, whole: World) -> None:
    [one], [other] = sharded[0].status().bundles, whole[0].status().bundles
    assert (one.shard_count, other.shard_count) == (len(sharded[1].shards), 1)
    assert (one.item_count, list(one.lexical_attributes), one.has_popularity) == (1003, ["title"], True)
    assert one.attributes == other.attributes


def test_a_search_is_of_the_bundle_that_it_names(sharded: World) -> None:
    service, manifest = sharded
    response = ask(sharded, by_embedding(), bundle_version=manifest.bundle_version)
    assert list(response.results[0].item_ids) == NEAREST[:10]
    request = pb.SearchItemsRequest(
        searches=[by_embedding(QUERY)], model_version=manifest.model_version, bundle_version="20200101T000000Z-000000"
    )
    assert failure(service.stub.SearchItems, request)[2].reason == "BUNDLE_NOT_SERVED"


def test_refuses_shards_that_do_not_make_up_the_bundle(tmp_path: Path) -> None:
    def swap_shards(folder: Path) -> None:
        shards = folder / "shards"
        for name in ("vectors.npy", "items.npz", "index.ann", "canaries.json"):
            (shards / "shard-00" / name).unlink()
            (shards / "shard-00" / name).write_bytes((shards / "shard-01" / name).read_bytes())

    store = FolderStore(tmp_path)
    with ann_service(store) as service:
        # Each shard by itself is sound, but the items of the first are missing.
        bad = write_bundle(store, shards=2, item_count=400, damage=swap_shards)
        problem = service.wait_for_problem(bad.bundle_version)
        assert problem.gate == "canaries"
        assert "from the shards together" in problem.message


def test_swaps_between_a_bundle_in_one_piece_and_one_in_shards(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    versions = [write_bundle(store, shards=shards, promote=False).bundle_version for shards in (1, 3, 2)]
    with ann_service(store) as service:
        for version in (*versions, versions[0]):
            store.promote(version)
            service.wait_for_bundle(version)
            response = service.stub.SearchItems(pb.SearchItemsRequest(searches=[similar_to("i7")]), timeout=10)
            assert (response.bundle_version, len(response.results[0].item_ids)) == (version, 10)
