"""The clients of the ANN service."""

import asyncio
from typing import Any

import pytest

from tests.clients.conftest import World
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client import AnnClient, AsyncAnnClient, InvalidRequest, Search, ServerError
from two_tower_client.ann import to_answer, to_request
from two_tower_client.filters import equals


def test_searches_of_one_call_answer_in_order(world: World) -> None:
    # (1, 0): east 1, northeast 0.6, north 0. Like north: northeast 0.8, east 0.
    with AnnClient(world.ann_address) as client:
        answer = client.search([Search(embedding=(1.0, 0.0)), Search(similar_to="north", k=1)], model_version="m1")
    first, second = answer.retrievals
    assert first.item_ids == ("east", "northeast", "north")
    assert first.scores == pytest.approx((1.0, 0.6, 0.0))
    assert second.item_ids == ("northeast",)
    assert (answer.model_version, answer.bundle_version, answer.newest_model_version) == ("m1", "b1", "m1")
    assert len(world.ann.requests) == 1


def test_sends_every_option(world: World) -> None:
    search = Search(
        embedding=[1.0, 0.0],
        k=7,
        exclude=("east",),
        filter=equals("genres", "Drama"),
        min_score=0.0,
        exact=True,
        search_budget=500,
        return_attributes=["title", "year"],
    )
    with AnnClient(world.ann_address) as client:
        client.search([search], model_version="m1", bundle_version="b1")
    assert world.ann.requests == [
        ann_pb2.SearchItemsRequest(
            model_version="m1",
            bundle_version="b1",
            searches=[
                ann_pb2.Search(
                    embedding=ann_pb2.Embedding(values=[1, 0]),
                    k=7,
                    exclude_item_ids=["east"],
                    filter=equals("genres", "Drama"),
                    min_score=0.0,
                    exact=True,
                    search_budget=500,
                    return_attributes=["title", "year"],
                )
            ],
        )
    ]
    assert world.ann.requests[0].searches[0].HasField("min_score")


def test_attributes_are_parallel_to_items(world: World) -> None:
    search = Search(embedding=(1.0, 0.0), return_attributes=("title", "year", "genres"))
    with AnnClient(world.ann_address) as client:
        (retrieval,) = client.search([search], model_version="m1").retrievals
    assert retrieval.attributes == {
        "title": ("East", "Northeast", None),
        "year": (1990, 2010, 2000),
        "genres": (("Comedy",), ("Comedy", "Drama"), ("Drama",)),
    }
    hits = list(retrieval)
    assert len(retrieval) == 3
    assert (hits[1].item_id, hits[1].attributes["title"]) == ("northeast", "Northeast")


def test_a_string_is_a_list_of_one(world: World) -> None:
    with AnnClient(world.ann_address) as client:
        client.search([Search(similar_to="north", exclude="east", return_attributes="title")])
    (search,) = world.ann.requests[0].searches
    assert list(search.similar_to.values) == ["north"]
    assert list(search.exclude_item_ids) == ["east"]
    assert list(search.return_attributes) == ["title"]


def test_a_text_ranks_alone_or_with_a_target(world: World) -> None:
    fused = Search(embedding=(1.0, 0.0), text="east", ranking="fused", fusion_constant=5)
    with AnnClient(world.ann_address) as client:
        answer = client.search([Search(text="east", ranking="lexical", k=1), fused], model_version="m1")
    assert answer.retrievals[0].item_ids == ("northeast",)
    assert answer.retrievals[0].scores == (9.0,)
    assert list(world.ann.requests[0].searches) == [
        ann_pb2.Search(text="east", ranking=ann_pb2.RANKING_LEXICAL, k=1),
        ann_pb2.Search(
            embedding=ann_pb2.Embedding(values=[1, 0]),
            text="east",
            ranking=ann_pb2.RANKING_FUSED,
            fusion_constant=5,
            k=10,
        ),
    ]


@pytest.mark.parametrize(
    ("search", "field"),
    [
        (Search(ranking="lexical"), "searches[0].text"),
        (Search(similar_to="east", ranking="fused"), "searches[0].text"),
        (Search(similar_to="east", text="east"), "searches[0].text"),
        (Search(similar_to="east", text="east", ranking="lexical"), "searches[0]"),
        (Search(text="east", ranking="fused"), "searches[0]"),
        (Search(text="east", ranking="bm25"), "searches[0].ranking"),  # pyright: ignore[reportArgumentType]
        (Search(text="east", ranking="lexical", fusion_constant=2**31), "searches[0].fusion_constant"),
        (Search(), "searches[0]"),
        (Search(embedding=(1.0,), similar_to="east"), "searches[0]"),
        (Search(similar_to="east", k=0), "searches[0].k"),
        (Search(similar_to="east", k=True), "searches[0].k"),
        (Search(similar_to="east", k="5"), "searches[0].k"),  # pyright: ignore[reportArgumentType]
        (Search(similar_to="east", k=None), "searches[0].k"),  # pyright: ignore[reportArgumentType]
        (Search(text="east", ranking=["lexical"]), "searches[0].ranking"),  # pyright: ignore[reportArgumentType]
        (Search(similar_to="east", k=2**31), "searches[0].k"),
        (Search(similar_to=[50]), "searches[0].similar_to"),  # pyright: ignore[reportArgumentType]
        (Search(similar_to="east", min_score="high"), "searches[0].min_score"),  # pyright: ignore[reportArgumentType]
        (Search(similar_to="east", exclude=[50]), "searches[0].exclude_item_ids"),  # pyright: ignore[reportArgumentType]
        (Search(similar_to="east", exclude=50), "searches[0].exclude_item_ids"),  # pyright: ignore[reportArgumentType]
        (Search(embedding=["1.0"]), "searches[0].embedding"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_rejects_before_the_wire(world: World, search: Search, field: str) -> None:
    with AnnClient(world.ann_address) as client, pytest.raises(InvalidRequest) as caught:
        client.search([search])
    assert caught.value.violations[0][0] == field
    assert world.ann.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [({"exclude": [50]}, "takes ids, which are strings"), ({"filter": "year>=1990"}, "two_tower_client.filters makes")],
)
def test_says_what_an_option_takes(world: World, options: dict[str, Any], said: str) -> None:
    with AnnClient(world.ann_address) as client, pytest.raises(InvalidRequest, match=said):
        client.search([Search(similar_to="east", **options)])


def test_asyncio_client_answers_the_same(world: World) -> None:
    searches = [Search(similar_to=["east"], return_attributes=["title"])]

    async def ask() -> tuple:
        async with AsyncAnnClient(world.ann_address) as client:
            return await client.search(searches), await client.status()

    with AnnClient(world.ann_address) as client:
        assert asyncio.run(ask()) == (client.search(searches), client.status())


@pytest.mark.parametrize(
    "response",
    [
        ann_pb2.SearchItemsResponse(),
        ann_pb2.SearchItemsResponse(results=[ann_pb2.SearchResult(item_ids=["a"])]),
        ann_pb2.SearchItemsResponse(
            results=[
                ann_pb2.SearchResult(item_ids=["a"], scores=[1], attributes=[ann_pb2.AttributeColumn(name="title")])
            ]
        ),
        ann_pb2.SearchItemsResponse(
            results=[
                ann_pb2.SearchResult(
                    item_ids=["a"],
                    scores=[1],
                    attributes=[ann_pb2.AttributeColumn(strings=ann_pb2.StringColumn(values=["t"]), missing=[1])],
                )
            ]
        ),
    ],
)
def test_rejects_a_response_of_the_wrong_shape(response: ann_pb2.SearchItemsResponse) -> None:
    with pytest.raises(ServerError):
        to_answer(response, 1)


@pytest.mark.parametrize("target", ["embedding", "similar_to"])
def test_an_empty_target_is_sent_for_the_service_to_reject(target: str) -> None:
    (search,) = to_request([Search(**{target: []})], "m1", "").searches  # type: ignore[arg-type]
    assert search.WhichOneof("target") == target
