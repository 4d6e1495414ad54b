"""Popular items of a running ANN service, against an independent reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ann_service import fusion
from retrieval.store.folder_store import FolderStore
from tests.ann_service.test_catalogue import answers
from tests.ann_service.world import World, ask, serving
from tests.harness import ann_service, failure, fields
from tests.worlds import item_table, tower, unit_vectors, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

COUNT = 300


def events(row: int) -> int:
    """Returns the number of events of an item: 0 to 39, so that seven or eight items tie."""
    return row * 7 % 40


ORDER = sorted(range(COUNT), key=lambda row: (-events(row), row))
COMEDY = pb.Filter(equals=pb.Equals(attribute="genres", value=pb.AttributeValue(string_value="comedy")))
RARE = pb.Filter(range=pb.Range(attribute="price", min=70.0))
QUERY = tower(1).golden_embeddings[0]


@pytest.fixture(scope="module", params=[16_384, 16], ids=["one step", "many steps"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "_ROWS_PER_STEP", request.param)
        with serving(tmp_path_factory.mktemp("store"), popularity=events) as running:
            yield running


def popular(k: int = 10, **more: Any) -> pb.Search:
    return pb.Search(popular=pb.Popular(), k=k, **more)


def rows_of(result: pb.SearchResult) -> list[int]:
    return [int(item[1:]) for item in result.item_ids]


def by_events(keep: Callable[[int], bool] = lambda row: True, k: int = 10) -> list[int]:
    return [row for row in ORDER if keep(row)][:k]


def is_comedy(row: int) -> bool:
    return row % 4 in (1, 3)


def is_rare(row: int) -> bool:
    return row % 5 != 0 and row >= 280  # a price of row / 4, and none for every fifth item


def test_items_with_most_events_come_first_and_scores_are_shares_of_all_events(world: World) -> None:
    [result] = ask(world, popular(k=200), model_version="").results
    assert rows_of(result) == by_events(k=200)
    # 300 rows are seven and a half rounds of 0 … 39, whose sum is 780; the half round has the rows 280 … 299.
    total = 7 * 780 + sum(row * 7 % 40 for row in range(20))
    np.testing.assert_allclose(result.scores, [events(row) / total for row in rows_of(result)], rtol=1e-6)


def test_filter_and_exclusions_are_respected(world: World) -> None:
    seen = [f"i{row}" for row in ORDER[:50]] + ["unknown"]
    searches = [
        popular(exclude_item_ids=seen),
        popular(filter=COMEDY),
        popular(filter=COMEDY, exclude_item_ids=seen),
        popular(filter=RARE, k=200),
        popular(filter=RARE, k=3, exclude_item_ids=[f"i{row}" for row in by_events(is_rare, 2)]),
        popular(k=200, exclude_item_ids=[f"i{row}" for row in range(290)]),
        popular(filter=pb.Filter(range=pb.Range(attribute="price", min=1e6))),
    ]
    assert [rows_of(result) for result in ask(world, *searches).results] == [
        ORDER[50:60],
        by_events(is_comedy),
        by_events(lambda row: is_comedy(row) and row not in ORDER[:50]),
        by_events(is_rare, 200),
        by_events(is_rare, 5)[2:],
        by_events(lambda row: row >= 290),
        [],
    ]


def test_attributes_and_smallest_score(world: World) -> None:
    total = 7 * 780 + sum(row * 7 % 40 for row in range(20))
    [result] = ask(world, popular(k=200, min_score=34.5 / total, return_attributes=["title"])).results
    assert rows_of(result) == by_events(lambda row: events(row) >= 35, 200)
    titles = item_table(COUNT).attributes["title"]
    assert list(result.attributes[0].strings.values) == [titles.at(row) or "" for row in rows_of(result)]


def test_a_call_may_mix_popular_items_with_an_embedding(world: World) -> None:
    nearest = np.argsort(-(unit_vectors(COUNT, 1) @ QUERY)).tolist()[:5]
    embedded = pb.Search(embedding=pb.Embedding(values=QUERY), k=5, exact=True)
    results = ask(world, popular(k=3), embedded, popular(k=2)).results
    assert [rows_of(result) for result in results] == [ORDER[:3], nearest, ORDER[:2]]


@pytest.mark.parametrize(
    ("search", "field"),
    [
        (popular(ranking=pb.RANKING_FUSED, text="red"), "popular"),
        (popular(ranking=pb.RANKING_LEXICAL, text="red"), "popular"),
        (popular(k=0), "k"),
    ],
)
def test_says_which_field_is_wrong(store: FolderStore, search: pb.Search, field: str) -> None:
    manifest = write_bundle(store, popularity=events, texts=lambda row: "red")
    with ann_service(store) as service:
        service.wait_for_bundle(manifest.bundle_version)
        code, _, detail = failure(service.stub.SearchItems, pb.SearchItemsRequest(searches=[search]))
        assert (code, fields(detail)) == ("INVALID_ARGUMENT", [f"searches[0].{field}"])


def test_a_bundle_without_popularity_refuses_and_names_those_with_it(store: FolderStore) -> None:
    first = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(first.bundle_version)
        request = pb.SearchItemsRequest(searches=[popular()])
        code, text, detail = failure(service.stub.SearchItems, request)
        assert (code, detail.reason, detail.metadata["bundle_versions"]) == (
            "FAILED_PRECONDITION",
            "POPULARITY_NOT_SERVED",
            "",
        )
        assert "has no popularity.npy" in text
        # The next bundle has a popularity; the previous one still has none.
        second = write_bundle(store, model_version=first.model_version, popularity=lambda row: row)
        service.wait_for_bundle(second.bundle_version)
        response = service.stub.SearchItems(request, timeout=10)
        assert response.bundle_version == second.bundle_version
        assert rows_of(response.results[0]) == list(range(299, 289, -1))
        assert [bundle.has_popularity for bundle in service.status().bundles] == [True, False]
        pinned = pb.SearchItemsRequest(searches=[popular()], bundle_version=first.bundle_version)
        _, _, detail = failure(service.stub.SearchItems, pinned)
        assert detail.metadata["bundle_versions"] == second.bundle_version


def test_items_without_events_are_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    with serving(tmp_path, popularity=lambda row: 0) as world:
        [result] = ask(world, popular(k=3)).results
        assert (rows_of(result), list(result.scores)) == ([0, 1, 2], [0.0, 0.0, 0.0])


def shorter(folder: Path) -> None:
    np.save(folder / "popularity.npy", np.zeros(299, np.uint32))


def signed(folder: Path) -> None:
    np.save(folder / "popularity.npy", np.full(300, -1))


WRONG: list[tuple[Callable[[Path], Any], str]] = [
    (shorter, "uint32 [299], expected uint32 [300]"),
    (signed, "int64 [300], expected uint32 [300]"),
    (lambda folder: (folder / "popularity.npy").write_bytes(b"junk"), "popularity.npy"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG)
def test_keeps_the_old_bundle_when_the_popularity_of_the_new_one_is_wrong(
    store: FolderStore, damage: Callable[[Path], None], message: str
) -> None:
    good = write_bundle(store, popularity=events)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, seed=2, popularity=events, damage=damage).bundle_version
        problem = service.wait_for_problem(bad)
        assert (problem.gate, message in problem.message) == ("contents", True), problem.message
        answers(service, good)
