"""Boosts, diversity, group limits and facets: the messages of the client, and its answers of a real service."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ann_service.world import World, serving
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client import (
    AsyncRetriever,
    Boost,
    Diversify,
    Facet,
    FacetCounts,
    InvalidRequest,
    Retriever,
    Search,
    ServerError,
)
from two_tower_client.ann import to_answer, to_request
from two_tower_client.filters import equals
from two_tower_client.retrieve_request import popular_search

COMEDY = equals("genres", "comedy")


def message(**options: Any) -> ann_pb2.Search:
    return to_request([Search(popular=True, **options)], "", "").searches[0]


def test_sends_every_option() -> None:
    sent = message(
        candidates_limit=70,
        boosts=[Boost(COMEDY, 0.5), Boost(COMEDY, -0.25)],
        diversify=Diversify(0.75, {"brand": 2, "year": 3}),
        facets=[Facet("year", limit=3), "brand"],
    )
    limits = [
        ann_pb2.GroupLimit(attribute="brand", max_group_size=2),
        ann_pb2.GroupLimit(attribute="year", max_group_size=3),
    ]
    assert sent == ann_pb2.Search(
        popular=ann_pb2.Popular(),
        k=10,
        candidates_limit=70,
        boosts=[ann_pb2.Boost(filter=COMEDY, weight=0.5), ann_pb2.Boost(filter=COMEDY, weight=-0.25)],
        diversify=ann_pb2.Diversify(diversity=0.75, group_limits=limits),
        facets=[ann_pb2.Facet(attribute="year", limit=3), ann_pb2.Facet(attribute="brand", limit=10)],
    )
    assert [facet.attribute for facet in message(facets="brand").facets] == ["brand"]
    assert message(diversify=Diversify()).HasField("diversify")


def test_an_older_service_sees_nothing_of_what_is_not_asked_for() -> None:
    assert message() == ann_pb2.Search(popular=ann_pb2.Popular(), k=10)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"boosts": [(COMEDY, 0.5)]}, "boosts[0]"),
        ({"boosts": [Boost(COMEDY, 0.1), Boost("comedy", 0.5)]}, "boosts[1]"),  # type: ignore[arg-type]
        ({"boosts": [Boost(COMEDY, math.nan)]}, "boosts[0].weight"),
        ({"diversify": 0.5}, "diversify"),
        ({"diversify": Diversify(group_limits={"brand": 0.5})}, "diversify"),  # type: ignore[dict-item]
        ({"facets": [7]}, "facets[0]"),
        ({"facets": ["year", Facet("year", limit="all")]}, "facets[1]"),  # type: ignore[arg-type]
        ({"candidates_limit": 2**31}, "candidates_limit"),
    ],
)
def test_says_which_option_has_a_wrong_type(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        message(**options)
    assert str(caught.value).startswith(f"searches[0].{field}: ")


def test_a_fallback_keeps_what_does_not_depend_on_the_unit_of_the_scores() -> None:
    diversify = Diversify(0.5)
    search = Search(k=3, boosts=[Boost(COMEDY, 0.1)], diversify=diversify, facets=["year"], candidates_limit=40)
    expected = Search(popular=True, k=3, diversify=diversify, facets=["year"], candidates_limit=40)
    assert popular_search(search) == expected


def test_an_answer_whose_boosts_do_not_fit_is_refused() -> None:
    result = ann_pb2.SearchResult(item_ids=["a", "b"], scores=[1, 0], boosts=[0.5], candidate_count=2)
    with pytest.raises(ServerError, match="boosts that do not fit 2 items"):
        to_answer(ann_pb2.SearchItemsResponse(results=[result]), 1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store"), popularity=lambda row: row % 13) as running:
        yield running


def test_answers_of_a_real_service(real: World) -> None:
    address = f"localhost:{real[0].port}"
    options: dict[str, Any] = {
        "boosts": [Boost(COMEDY, 0.5)],
        "diversify": Diversify(0.25, {"genres": 2}),
        "facets": ["genres"],
        "return_attributes": ["genres"],
    }
    with Retriever(ann=address) as retriever:
        popular = retriever.popular(20, **options)
        similar = retriever.similar_to("i1", 5, **options)
        plain = retriever.similar_to("i1", 5)

    async def ask() -> Any:
        async with AsyncRetriever(ann=address) as asynchronous:
            return await asynchronous.popular(20, **options)

    assert asyncio.run(ask()) == popular
    # 2 comedies and 2 dramas at most, and items without a genre.
    genres = [genre for own in popular.attributes["genres"] for genre in own or ()]  # type: ignore[union-attr]
    assert (genres.count("comedy"), genres.count("drama") <= 2) == (2, True)
    assert len(popular.boosts) == len(popular.marginal_relevances) == len(popular)
    assert popular.boosts[0] == 0.5
    assert popular.candidate_count == 100
    # All 100 candidates are boosted: comedies, half of which are dramas too.
    assert popular.facets["genres"].counts["comedy"] == 100
    assert isinstance(popular.facets["genres"], FacetCounts)
    assert popular.shortened_by_group_limits
    assert (len(similar), similar.candidate_count) == (5, 100)
    assert (plain.boosts, plain.marginal_relevances, plain.facets, plain.candidate_count) == ((), (), {}, 0)
