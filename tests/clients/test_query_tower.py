"""The clients of the query tower service."""

import asyncio

import grpc
import pytest

from tests.clients.conftest import World
from tests.clients.world import bare
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client import (
    AsyncQueryTowerClient,
    InvalidRequest,
    ModelNotServed,
    QueryTowerClient,
    ServerError,
    Unauthenticated,
)
from two_tower_client.query_tower import to_embeddings


def test_embeds_in_order_and_names_the_model(world: World) -> None:
    with QueryTowerClient(world.query_tower_address) as client:
        embeddings = client.embed([{"age": 0}, {"age": 90.0}, {}])
    assert embeddings.model_version == "m1"
    assert [tuple(round(value, 6) for value in vector) for vector in embeddings.vectors] == [(1, 0), (0, 1), (1, 0)]
    assert len(world.query_tower.requests) == 1


def test_requests_the_named_model(world: World) -> None:
    with QueryTowerClient(world.query_tower_address) as client, pytest.raises(ModelNotServed) as caught:
        client.embed([{}], "m9")
    assert caught.value.model_versions == ("m1",)


def test_rejects_an_empty_batch_before_the_wire(world: World) -> None:
    with QueryTowerClient(world.query_tower_address) as client, pytest.raises(InvalidRequest):
        client.embed([])
    assert world.query_tower.requests == []


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_retries_while_the_service_is_unavailable_or_stops(world: World, code: grpc.StatusCode) -> None:
    world.query_tower.failures.extend([bare(code)] * 2)
    with QueryTowerClient(world.query_tower_address, timeout_s=5) as client:
        assert client.embed([{}]).model_version == "m1"
    assert len(world.query_tower.requests) == 3


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL])
def test_does_not_retry_other_failures(world: World, code: grpc.StatusCode) -> None:
    world.query_tower.failures.append(bare(code))
    with QueryTowerClient(world.query_tower_address) as client, pytest.raises(Exception, match="as scripted"):
        client.embed([{}])
    assert len(world.query_tower.requests) == 1


def test_sends_the_token(world: World) -> None:
    world.query_tower.token = "right"
    with QueryTowerClient(world.query_tower_address, token="right") as client:
        assert client.status().newest_model_version == "m1"
    with QueryTowerClient(world.query_tower_address, token="wrong") as client, pytest.raises(Unauthenticated):
        client.status()


def test_asyncio_client_answers_the_same(world: World) -> None:
    async def ask() -> tuple:
        async with AsyncQueryTowerClient(world.query_tower_address) as client:
            return await client.embed([{"age": 30}]), await client.status()

    with QueryTowerClient(world.query_tower_address) as client:
        assert asyncio.run(ask()) == (client.embed([{"age": 30}]), client.status())


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_every_call_has_a_deadline(world: World, timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        QueryTowerClient(world.query_tower_address, timeout_s=timeout_s)
    with QueryTowerClient(world.query_tower_address) as client, pytest.raises(InvalidRequest, match="timeout_s"):
        client.embed([{}], timeout_s=timeout_s)


def test_a_short_answer_is_an_error() -> None:
    with pytest.raises(ServerError, match="2 queries with 1 embeddings"):
        to_embeddings(query_pb2.EmbedQueriesResponse(embeddings=[query_pb2.Embedding(values=[1])]), 2)
