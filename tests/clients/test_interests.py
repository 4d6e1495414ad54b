"""Models with several interests: the client composes the same two calls."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.clients.conftest import World
from tests.clients.world import VECTORS, ScriptedAnn, ScriptedQueryTower, serving
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client import AsyncRetriever, Embeddings, InvalidRequest, QueryTowerClient, Retriever, ServerError, ann
from two_tower_client.ann import Search
from two_tower_client.comparison import compare
from two_tower_client.recording import RecordedQuery

INTERESTS = ((1.0, 0.0), (0.0, 1.0))


class TowerOfTwo(ScriptedQueryTower):
    """Answers each query with `INTERESTS`, for the models named m2; with one embedding for the others."""

    faulty = False

    def EmbedQueries(self, request, context):
        response = super().EmbedQueries(request, context)
        if response.model_version == "m2":
            del response.embeddings[:]
            for _ in request.queries[self.faulty :]:
                response.interests.add(embeddings=[query_pb2.Embedding(values=values) for values in INTERESTS])
        return response


class AnnOfTwo(ScriptedAnn):
    """Scores by the largest of several."""

    def _search(self, search: ann_pb2.Search, model: str, result: ann_pb2.SearchResult) -> None:
        if search.WhichOneof("target") != "embeddings":
            super()._search(search, model, result)
            return
        scores = {
            item: max(sum(a * b for a, b in zip(e.values, v, strict=True)) for e in search.embeddings.values)
            for item, v in VECTORS.items()
        }
        best = sorted(scores, key=lambda item: -scores[item])[: search.k]
        result.item_ids.extend(best)
        result.scores.extend(scores[item] for item in best)
        for name in search.return_attributes:
            result.attributes.add(name=name).strings.values.extend(best)


@pytest.fixture
def world() -> Iterator[World]:
    tower, catalogue = TowerOfTwo(("b2", "m2"), ("b1", "m1")), AnnOfTwo(("b2", "m2"), ("b1", "m1"))
    with serving(tower, catalogue) as addresses:
        yield World(tower, catalogue, *addresses)


def test_a_caller_says_nothing_more_and_each_service_is_called_once(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        first, second = retriever.retrieve_batch([{"age": 0}, {"age": 90}], k=2, exact=True)
    # East (1, 0) and north (0, 1) have 1 with an interest each, northeast (.6, .8) has .8.
    assert sorted(first.item_ids) == sorted(second.item_ids) == ["east", "north"]
    assert first.scores == (1.0, 1.0)
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 1)
    searches = world.ann.requests[0].searches
    assert [[tuple(e.values) for e in search.embeddings.values] for search in searches] == [list(INTERESTS)] * 2
    assert all(search.exact and search.k == 2 for search in searches)


def test_asyncio_does_the_same(world: World) -> None:
    async def retrieve() -> tuple[str, ...]:
        async with AsyncRetriever(**world.addresses) as retriever:
            return (await retriever.retrieve({"age": 0}, k=2)).item_ids

    assert sorted(asyncio.run(retrieve())) == ["east", "north"]
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 1)


def test_embeddings_hold_interests_in_place_of_vectors(world: World) -> None:
    with QueryTowerClient(world.query_tower_address) as client:
        assert client.embed([{"age": 0}]) == Embeddings((), "m2", (INTERESTS,))
        assert client.embed([{"age": 0}], "m1") == Embeddings(((1.0, 0.0),), "m1")


def test_fewer_sets_of_interests_than_queries_are_an_error(world: World) -> None:
    world.query_tower.faulty = True  # pyright: ignore[reportAttributeAccessIssue]
    with (
        QueryTowerClient(world.query_tower_address) as client,
        pytest.raises(ServerError, match="2 queries with 0 embeddings and 1 sets of interests"),
    ):
        client.embed([{"age": 0}, {}])


def test_a_search_takes_one_target() -> None:
    for search in (
        Search(embedding=[1.0], embeddings=[[1.0]]),
        Search(embeddings=[[1.0]], similar_to="east"),
        Search(),
    ):
        with pytest.raises(InvalidRequest, match="one of the three"):
            ann.to_request([search], "m1", "")


def test_bundles_of_one_and_of_several_interests_are_compared(world: World) -> None:
    queries = [RecordedQuery(1, {"age": 0})]
    with QueryTowerClient(world.query_tower_address) as tower, ann.AnnClient(world.ann_address) as catalogue:
        found = compare(tower, catalogue, "b1", "b2", queries, k=2)
    # b1 answers east and northeast, b2 east and north: 1 of 2 in common.
    assert found.overlaps[0].spread.mean == 0.5
    assert (found.old.mean_score, found.new.mean_score) == (pytest.approx(0.8), 1.0)
