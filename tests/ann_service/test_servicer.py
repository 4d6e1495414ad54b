"""The RPCs of the ANN service, from a running service."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from retrieval.store.folder_store import FolderStore
from tests.ann_service.world import World, ask, serving
from tests.harness import ann_service, failure, fields
from tests.worlds import tower, unit_vectors, wait_for, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

VECTORS = unit_vectors(300, 1)
QUERY = tower(1).golden_embeddings[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store")) as running:
        yield running


def search_of(vector: Any = QUERY, k: int = 5, **more: Any) -> pb.Search:
    return pb.Search(embedding=pb.Embedding(values=vector), k=k, **more)


def similar_to(*ids: str, k: int = 5) -> pb.Search:
    return pb.Search(similar_to=pb.ItemIds(values=ids), k=k)


def refusal(world: World, *searches: pb.Search, **more: Any) -> tuple[str, str, Any]:
    service, manifest = world
    request = pb.SearchItemsRequest(searches=searches, **{"model_version": manifest.model_version, **more})
    return failure(service.stub.SearchItems, request)


def nearest(vector: np.ndarray, k: int, without: tuple[int, ...] = ()) -> list[str]:
    scores = VECTORS.astype(np.float64) @ vector
    return [f"i{row}" for row in np.argsort(-scores) if row not in without][:k]


def test_returns_the_nearest_items_in_the_order_of_the_request(world: World) -> None:
    response = ask(world, search_of(VECTORS[17], 4), search_of(k=7), search_of(-QUERY, 3))
    assert [list(result.item_ids) for result in response.results] == [
        nearest(VECTORS[17], 4),
        nearest(QUERY, 7),
        nearest(-QUERY, 3),
    ]
    np.testing.assert_allclose(response.results[1].scores, np.sort(VECTORS @ QUERY)[::-1][:7], atol=1e-6)
    manifest = world[1]
    versions = (response.model_version, response.bundle_version, response.newest_model_version)
    assert versions == (manifest.model_version, manifest.bundle_version, manifest.model_version)


@pytest.mark.parametrize("scale", [1e-30, 7.0, 1e38])
def test_only_the_direction_of_an_embedding_matters(world: World, scale: float) -> None:
    [result] = ask(world, search_of(QUERY * scale)).results
    assert list(result.item_ids) == nearest(QUERY, 5)


def test_leaves_out_excluded_items_and_ignores_unknown_ones(world: World) -> None:
    first, second, *_ = nearest(QUERY, 2)
    [result] = ask(world, search_of(exclude_item_ids=[first, "nowhere", second, first])).results
    assert list(result.item_ids) == nearest(QUERY, 7)[2:]


@pytest.mark.parametrize("more", [{}, {"exact": True}, {"k": 200}])
def test_leaves_out_thousands_of_excluded_items(world: World, more: dict[str, Any]) -> None:
    first, second, third, *_ = nearest(QUERY, 3)
    unknown = [f"unknown-{number}" for number in range(3000)]
    excluded = [first, second, *unknown, third, *unknown]
    search = {"k": 5, **more}
    [result] = ask(world, search_of(exclude_item_ids=excluded, **search)).results
    assert list(result.item_ids) == nearest(QUERY, search["k"] + 3)[3:]
    near = VECTORS[4].astype(np.float64)
    excluded = [nearest(near, 2)[1], *unknown]
    [result] = ask(world, pb.Search(similar_to=pb.ItemIds(values=["i4"]), exclude_item_ids=excluded, **search)).results
    assert list(result.item_ids) == nearest(near, search["k"] + 2)[2:]


def test_filter_returns_k_items_if_k_match(world: World) -> None:
    comedy = pb.Filter(
        equals=pb.Equals(attribute="genres", value=pb.AttributeValue(string_value="comedy")),
    )
    [result] = ask(world, search_of(k=150, filter=comedy)).results
    # Rows 1 and 3 of every four: 150 of 300.
    assert sorted(int(item[1:]) for item in result.item_ids) == [row for row in range(300) if row % 2 == 1]


def test_min_score_leaves_out_lower_scores(world: World) -> None:
    [result] = ask(world, search_of(k=200, min_score=0.5)).results
    assert len(result.item_ids) == int(np.count_nonzero(VECTORS @ QUERY >= 0.5))
    assert min(result.scores) >= 0.5


def test_similar_to_leaves_out_the_items_that_it_names(world: World) -> None:
    mean = (VECTORS[4] + VECTORS[9]) / 2
    [result] = ask(world, similar_to("i4", "i9", "i4"), model_version="").results
    assert list(result.item_ids) == nearest(mean / np.linalg.norm(mean), 5, (4, 9))


def test_attributes_are_columns_that_list_missing_values(world: World) -> None:
    names = ["title", "genres", "year", "price"]
    search = pb.Search(embedding=pb.Embedding(values=VECTORS[35]), k=200, return_attributes=names)
    [result] = ask(world, search).results
    rows = [int(item[1:]) for item in result.item_ids]
    title, genres, year, price = result.attributes
    assert [column.name for column in result.attributes] == names
    # Row 35 is a multiple of 5 and 7: no price, no year; 35 % 4 == 3: both genres.
    assert (rows[0], title.strings.values[0], list(genres.string_lists.values[0].values)) == (
        35,
        "Title 35",
        ["comedy", "drama"],
    )
    assert (year.ints.values[0], price.floats.values[0]) == (0, 0.0)
    assert list(year.missing) == [n for n, row in enumerate(rows) if row % 7 == 0]
    assert list(price.missing) == [n for n, row in enumerate(rows) if row % 5 == 0]
    assert list(genres.missing) == [n for n, row in enumerate(rows) if row % 4 == 0]
    assert len(title.strings.values) == len(year.ints.values) == len(price.floats.values) == 200
    assert [year.ints.values[n] for n, row in enumerate(rows) if row % 7] == [
        1950 + row % 70 for row in rows if row % 7
    ]


@pytest.mark.parametrize(
    ("search", "field"),
    [
        (pb.Search(k=5), "searches[1]"),
        (search_of(k=0), "searches[1].k"),
        (search_of(k=-1), "searches[1].k"),
        (search_of(k=201), "searches[1].k"),
        (search_of(QUERY[:7]), "searches[1].embedding.values"),
        (search_of([math.nan] * 8), "searches[1].embedding.values"),
        (search_of([math.inf] * 8), "searches[1].embedding.values"),
        (search_of([0.0] * 8), "searches[1].embedding.values"),
        (search_of(search_budget=-1), "searches[1].search_budget"),
        (search_of(search_budget=10_000_001), "searches[1].search_budget"),
        (search_of(min_score=1.5), "searches[1].min_score"),
        (search_of(min_score=math.nan), "searches[1].min_score"),
        (search_of(exclude_item_ids=["a"] * 100_001), "searches[1].exclude_item_ids"),
        (search_of(return_attributes=["colour"]), "searches[1].return_attributes[0]"),
        (search_of(return_attributes=["title", "title"]), "searches[1].return_attributes[1]"),
        (search_of(filter=pb.Filter()), "searches[1].filter"),
        (similar_to(), "searches[1].similar_to.values"),
        (similar_to(*["i1"] * 1001), "searches[1].similar_to.values"),
    ],
)
def test_says_which_field_is_wrong(world: World, search: pb.Search, field: str) -> None:
    code, _, detail = refusal(world, search_of(), search)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", [field])


def test_says_everything_that_is_wrong_at_once(world: World) -> None:
    _, _, detail = refusal(world, search_of([math.nan] * 8, k=0, min_score=2.0), search_of(k=-7))
    assert sorted(fields(detail)) == [
        "searches[0].embedding.values",
        "searches[0].k",
        "searches[0].min_score",
        "searches[1].k",
    ]


def test_refuses_an_empty_or_too_large_batch(world: World) -> None:
    assert fields(refusal(world)[2]) == ["searches"]
    assert fields(refusal(world, *[search_of()] * 21)[2]) == ["searches"]
    assert len(ask(world, *[search_of()] * 20).results) == 20


def test_embedding_without_its_model_is_refused(world: World) -> None:
    code, _, detail = refusal(world, search_of(), model_version="")
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["model_version"])


def test_unknown_items_are_listed_up_to_ten(world: World) -> None:
    code, _, detail = refusal(world, similar_to("i1", *(f"u{n}" for n in range(12))))
    assert (code, detail.reason) == ("NOT_FOUND", "UNKNOWN_ITEM")
    assert detail.metadata["item_ids"] == "u0,u1,u2,u3,u4,u5,u6,u7,u8,u9"


def test_item_vectors_that_cancel_out_have_no_direction(store: FolderStore) -> None:
    def mirror(vectors: np.ndarray) -> np.ndarray:
        vectors[299] = -vectors[298]
        return vectors

    manifest = write_bundle(store, vectors=mirror)
    with ann_service(store) as service:
        service.wait_for_bundle(manifest.bundle_version)
        code, _, detail = refusal((service, manifest), similar_to("i298", "i299"))
        assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["searches[0].similar_to.values"])


def test_unknown_model_and_bundle_are_refused_with_the_open_ones(world: World) -> None:
    manifest, other = world[1], "20200101T000000Z-000000"
    code, _, detail = refusal(world, search_of(), model_version=other)
    assert (code, detail.reason) == ("FAILED_PRECONDITION", "MODEL_NOT_SERVED")
    assert dict(detail.metadata) == {"model_versions": manifest.model_version}
    for wrong in ({"bundle_version": other}, {"bundle_version": manifest.bundle_version, "model_version": other}):
        code, _, detail = refusal(world, search_of(), **wrong)
        assert (code, detail.reason) == ("FAILED_PRECONDITION", "BUNDLE_NOT_SERVED")
        assert dict(detail.metadata) == {"bundle_versions": manifest.bundle_version}


def test_status_describes_the_open_bundles(world: World) -> None:
    service, manifest = world
    status = service.status()
    assert (status.max_batch_size, status.max_k, status.live_bundle_version) == (20, 200, manifest.bundle_version)
    [bundle] = status.bundles
    assert (bundle.item_count, bundle.dimension, bundle.index_kind, bundle.search_budget) == (300, 8, "annoy", 2000)
    assert dict(bundle.index_parameters) == {"trees": "10", "seed": "3"}
    assert {a.name: a.type for a in bundle.attributes} == {
        "title": pb.ATTRIBUTE_TYPE_STRING,
        "genres": pb.ATTRIBUTE_TYPE_STRING_LIST,
        "year": pb.ATTRIBUTE_TYPE_INT,
        "price": pb.ATTRIBUTE_TYPE_FLOAT,
    }


def test_searches_each_embedding_in_the_bundle_of_its_model_across_a_swap(store: FolderStore) -> None:
    old = write_bundle(store, seed=1, catalogue_seed=1)
    with ann_service(store) as service:
        service.wait_for_bundle(old.bundle_version)
        new = write_bundle(store, seed=2, catalogue_seed=2)
        service.wait_for_bundle(new.bundle_version)
        from_old, from_new = ask((service, old), search_of()), ask((service, new), search_of())
        assert from_old.bundle_version == old.bundle_version
        assert from_old.newest_model_version == from_new.newest_model_version == new.model_version
        assert list(from_old.results[0].item_ids) == nearest(QUERY, 5)
        assert list(from_new.results[0].item_ids) != nearest(QUERY, 5)
        _, _, detail = refusal((service, old), search_of(), model_version="20200101T000000Z-000000")
        assert detail.metadata["model_versions"] == f"{new.model_version},{old.model_version}"


def test_newest_bundle_of_a_model_answers_unless_one_is_pinned(store: FolderStore) -> None:
    old = write_bundle(store, catalogue_seed=1)
    with ann_service(store) as service:
        service.wait_for_bundle(old.bundle_version)
        new = write_bundle(store, model_version=old.model_version, catalogue_seed=2)
        service.wait_for_bundle(new.bundle_version)
        assert ask((service, old), search_of()).bundle_version == new.bundle_version
        pinned = ask((service, old), search_of(), bundle_version=old.bundle_version)
        assert pinned.bundle_version == old.bundle_version
        assert list(pinned.results[0].item_ids) == nearest(QUERY, 5)
        store.roll_back()
        wait_for(lambda: ask((service, old), search_of()).bundle_version == old.bundle_version, "it rolls back")
