"""Searches with several embeddings, asked of the ANN service for real on a free port."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.ann_service.world import World, ask, serving
from tests.serving.harness import failure, fields
from tests.worlds import unit_vectors
from two_tower.ann.v1 import ann_service_pb2 as pb

VECTORS = unit_vectors(300, 1)
INTERESTS = unit_vectors(3, 8)
LARGEST = (VECTORS.astype(np.float64) @ INTERESTS.T).max(axis=1)
"""[300] the score of each item."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store")) as running:
        yield running


def search_of(vectors: Any = INTERESTS, k: int = 5, **more: Any) -> pb.Search:
    return pb.Search(embeddings=pb.Embeddings(values=[pb.Embedding(values=v) for v in vectors]), k=k, **more)


def request(world: World, *searches: pb.Search, **more: Any) -> pb.SearchItemsRequest:
    return pb.SearchItemsRequest(searches=searches, **{"model_version": world[1].model_version, **more})


def best(k: int, shown: np.ndarray | None = None) -> list[str]:
    order = [int(row) for row in np.argsort(-LARGEST) if shown is None or shown[row]]
    return [f"i{row}" for row in order[:k]]


def test_items_come_once_by_their_largest_score_and_any_length_counts_alike(
    world: World,
) -> None:
    scaled = INTERESTS * np.array([[1e-20], [7.0], [1.0]])
    by_index, exact = ask(world, search_of(scaled, 40), search_of(scaled, 40, exact=True)).results
    assert list(by_index.item_ids) == list(exact.item_ids) == best(40)
    np.testing.assert_allclose(exact.scores, np.sort(LARGEST)[::-1][:40], atol=1e-6)


def test_one_of_several_is_the_search_with_it_alone(world: World) -> None:
    alone = pb.Search(embedding=pb.Embedding(values=INTERESTS[1]), k=9)
    several, single = ask(world, search_of(INTERESTS[1:2], 9), alone).results
    assert several == single


def test_filter_exclusions_minimum_and_attributes_work_with_several(world: World) -> None:
    comedy = pb.Filter(equals=pb.Equals(attribute="genres", value=pb.AttributeValue(string_value="comedy")))
    odd = np.arange(300) % 2 == 1  # the comedies of `tests.worlds.item_table`
    filtered, excluded, cut = ask(
        world,
        search_of(k=30, filter=comedy, return_attributes=["genres"]),
        search_of(k=10, exclude_item_ids=best(4)),
        search_of(k=200, min_score=0.6),
    ).results
    assert list(filtered.item_ids) == best(30, odd)
    assert all("comedy" in genres.values for genres in filtered.attributes[0].string_lists.values)
    assert list(excluded.item_ids) == best(14)[4:]
    assert len(cut.item_ids) == int(np.count_nonzero(LARGEST >= 0.6)) < 200


@pytest.mark.parametrize(
    ("vectors", "field", "message"),
    [
        ([], "searches[0].embeddings.values", "0 embeddings, expected 1 to 8"),
        (unit_vectors(9, 2), "searches[0].embeddings.values", "9 embeddings, expected 1 to 8"),
        ([INTERESTS[0], [1.0] * 7], "searches[0].embeddings.values[1].values", "7 values, the model has dimension 8"),
        ([INTERESTS[0], [math.nan] * 8], "searches[0].embeddings.values[1].values", "NaN"),
        ([[0.0] * 8, INTERESTS[0]], "searches[0].embeddings.values[0].values", "zero vector"),
    ],
    ids=["none", "too many", "dimension", "NaN", "zero"],
)
def test_says_what_is_wrong_with_an_embedding(world: World, vectors: Any, field: str, message: str) -> None:
    code, text, detail = failure(world[0].stub.SearchItems, request(world, search_of(vectors)))
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", [field])
    assert message in text


def test_eight_are_allowed_and_a_model_has_to_be_named(world: World) -> None:
    (result,) = ask(world, search_of(unit_vectors(8, 2), 200)).results
    assert len(result.item_ids) == 200
    code, _, detail = failure(world[0].stub.SearchItems, request(world, search_of(), model_version=""))
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["model_version"])
