"""Retrieving from both services with asyncio."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from tests.clients.conftest import World
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc
from two_tower_client import AsyncQueryTowerClient, AsyncRetriever, Embeddings, ModelNotServed, Retrieval, Retriever


def test_asyncio_retriever_ranks_by_text(world: World) -> None:
    async def ask() -> Retrieval:
        async with AsyncRetriever(**world.addresses) as retriever:
            return await retriever.retrieve({}, text="east", ranking="lexical")

    assert asyncio.run(ask()).item_ids == ("northeast", "east")
    assert world.query_tower.requests == []


def ask_both(world: World, ask: Callable) -> tuple:
    async def asynchronously() -> object:
        async with AsyncRetriever(**world.addresses) as retriever:
            return await ask(retriever)

    with Retriever(**world.addresses) as retriever:
        return ask(retriever), asyncio.run(asynchronously())


@pytest.mark.parametrize(
    "ask",
    [
        lambda retriever: retriever.retrieve({"age": 30}, k=2, return_attributes=["title", "genres"]),
        lambda retriever: retriever.retrieve_batch([{"age": 0}, {"age": 60.0}], 1, exclude=["east"]),
        lambda retriever: retriever.similar_to("north", min_score=0.5),
    ],
)
def test_asyncio_retriever_answers_the_same(world: World, ask: Callable) -> None:
    # Only the query tower has m2, so both retrievers have to embed again.
    world.query_tower.bundles = [("b2", "m2"), ("b1", "m1")]
    synchronous, asynchronous = ask_both(world, ask)
    assert synchronous == asynchronous


def test_asyncio_retriever_raises_the_same(world: World) -> None:
    world.query_tower.bundles = [("b2", "m2")]

    async def ask() -> None:
        async with AsyncRetriever(**world.addresses) as retriever:
            await retriever.retrieve({})

    with Retriever(**world.addresses) as retriever, pytest.raises(ModelNotServed) as synchronous:
        retriever.retrieve({})
    with pytest.raises(ModelNotServed) as asynchronous:
        asyncio.run(ask())
    assert synchronous.value.message == asynchronous.value.message
    assert isinstance(asynchronous.value.__cause__.__cause__, grpc.RpcError)


class Barrier(query_grpc.QueryTowerServiceServicer):
    """Answers no call before `count` calls are in flight."""

    def __init__(self, count: int) -> None:
        self.missing, self.complete = count, asyncio.Event()

    async def EmbedQueries(self, request, context):
        self.missing -= 1
        if not self.missing:
            self.complete.set()
        await self.complete.wait()
        age = request.queries[0].features["age"].ints.values[0]
        return query_pb2.EmbedQueriesResponse(embeddings=[query_pb2.Embedding(values=[age, 1])], model_version="m1")


def test_asyncio_client_has_a_thousand_calls_in_flight() -> None:
    async def ask() -> list[Embeddings]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        query_grpc.add_QueryTowerServiceServicer_to_server(Barrier(1000), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncQueryTowerClient(f"127.0.0.1:{port}", timeout_s=60, coalesce=False) as client:
            answers = await asyncio.gather(*(client.embed([{"age": age}]) for age in range(1000)))
        await server.stop(None)
        return answers

    assert [answer.vectors for answer in asyncio.run(ask())] == [((float(age), 1.0),) for age in range(1000)]
