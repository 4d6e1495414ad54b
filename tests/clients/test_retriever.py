"""Both services together."""

import asyncio
import doctest
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.clients.conftest import World
from tests.clients.world import ScriptedAnn, ScriptedQueryTower, bare, serving
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc
from two_tower_client import (
    AsyncQueryTowerClient,
    AsyncRetriever,
    DeadlineExceeded,
    Embeddings,
    InvalidRequest,
    ModelNotServed,
    Retrieval,
    Retriever,
    ServerError,
    Unavailable,
)
from two_tower_client.filters import equals


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_example_runs(world: World) -> None:
    # cos 24° = 0.91; 0.6 cos 24° + 0.8 sin 24° = 0.548 + 0.325 = 0.87.
    names = {"Retriever": lambda **_: Retriever(**world.addresses)}
    (example,) = doctest.DocTestFinder(recurse=False).find(Retriever, "Retriever", globs=names)
    assert doctest.DocTestRunner().run(example) == (0, 1)


def test_returns_the_nearest_items_with_one_call_to_each(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        retrieval = retriever.retrieve({"age": 0}, k=2, return_attributes=["title"])
    # (1, 0): east 1, northeast 0.6.
    assert [(hit.item_id, round(hit.score, 4), hit.attributes) for hit in retrieval] == [
        ("east", 1.0, {"title": "East"}),
        ("northeast", 0.6, {"title": "Northeast"}),
    ]
    assert (retrieval.model_version, retrieval.bundle_version) == ("m1", "b1")
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 1)


def test_options_reach_the_search(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        assert retriever.retrieve({}, exclude=["east"]).item_ids == ("northeast", "north")
        assert retriever.retrieve({}, filter=equals("genres", "Drama")).item_ids == ("northeast", "north")
        assert retriever.retrieve({}, min_score=0.5).item_ids == ("east", "northeast")
        retriever.retrieve({}, exact=True, search_budget=9)
        with pytest.raises(TypeError, match="excluded"):
            retriever.retrieve({}, excluded=["east"])  # pyright: ignore[reportCallIssue]
    assert (world.ann.requests[-1].searches[0].exact, world.ann.requests[-1].searches[0].search_budget) == (True, 9)


def test_a_batch_is_one_call_to_each(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        retrievals = retriever.retrieve_batch([{"age": 0}, {"age": 90}], k=1)
    assert [retrieval.item_ids for retrieval in retrievals] == [("east",), ("north",)]
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 1)


def test_words_need_no_query_tower(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        assert retriever.retrieve({"age": 0}, text="east", ranking="lexical").item_ids == ("northeast", "east")
        first, second = retriever.retrieve_batch([{}, {}], texts=["north", "east"], ranking="lexical", exclude=["east"])
    assert (first.item_ids, second.item_ids) == (("northeast",), ("northeast",))
    assert (first.model_version, first.bundle_version) == ("m1", "b1")
    assert world.query_tower.requests == []
    assert len(world.ann.requests) == 2


def test_each_query_of_a_batch_is_fused_with_its_own_text(world: World) -> None:
    async def ask() -> list[Retrieval]:
        async with AsyncRetriever(**world.addresses) as retriever:
            return await retriever.retrieve_batch([{"age": 0}, {"age": 90}], 1, texts=["a", "b"], ranking="fused")

    with Retriever(**world.addresses) as retriever:
        found = retriever.retrieve_batch([{"age": 0}, {"age": 90}], 1, texts=["a", "b"], ranking="fused")
        retriever.similar_to("north", text="c", ranking="fused")
    assert asyncio.run(ask()) == found
    assert [(search.text, search.ranking) for request in world.ann.requests for search in request.searches] == [
        ("a", ann_pb2.RANKING_FUSED),
        ("b", ann_pb2.RANKING_FUSED),
        ("c", ann_pb2.RANKING_FUSED),
        ("a", ann_pb2.RANKING_FUSED),
        ("b", ann_pb2.RANKING_FUSED),
    ]
    assert [retrieval.item_ids for retrieval in found] == [("east",), ("north",)]


@pytest.mark.parametrize("texts", [["a"], "ab"])
def test_texts_are_one_a_query(world: World, texts: list[str]) -> None:
    with Retriever(**world.addresses) as retriever, pytest.raises(InvalidRequest, match="one for each of 2 queries"):
        retriever.retrieve_batch([{}, {}], texts=texts, ranking="fused")
    assert world.query_tower.requests == []


def test_asyncio_twin_ranks_by_words_too(world: World) -> None:
    async def ask() -> Retrieval:
        async with AsyncRetriever(**world.addresses) as retriever:
            return await retriever.retrieve({}, text="east", ranking="lexical")

    assert asyncio.run(ask()).item_ids == ("northeast", "east")
    assert world.query_tower.requests == []


def test_similar_items_need_no_query_tower(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        assert retriever.similar_to("north").item_ids == ("northeast", "east")
        assert retriever.similar_to(["north", "east"], k=1).item_ids == ("northeast",)
    assert world.query_tower.requests == []


def test_embeds_the_next_query_with_the_newest_model_of_the_ann_service(world: World) -> None:
    world.query_tower.bundles = [("b1", "m1"), ("b2", "m2")]
    world.ann.bundles = [("b2", "m2"), ("b1", "m1")]
    with Retriever(**world.addresses) as retriever:
        answers = [retriever.retrieve({"age": 0}, k=1) for _ in range(2)]
    assert [answer.model_version for answer in answers] == ["m1", "m2"]
    assert [answer.item_ids for answer in answers] == [("east",), ("east",)]
    assert [request.model_version for request in world.query_tower.requests] == ["", "m2"]


def test_embeds_again_when_the_ann_service_lacks_the_model(world: World) -> None:
    world.query_tower.bundles = [("b2", "m2"), ("b1", "m1")]
    with Retriever(**world.addresses) as retriever:
        retrieval = retriever.retrieve({"age": 0}, k=1)
    # Embedded by m2, the query would look north in the space of m1.
    assert (retrieval.item_ids, retrieval.model_version) == (("east",), "m1")
    assert [request.model_version for request in world.query_tower.requests] == ["", "m1"]
    assert [request.model_version for request in world.ann.requests] == ["m2", "m1"]


def test_embeds_again_when_the_query_tower_lacks_the_model(world: World) -> None:
    world.ann.bundles = [("b2", "m2"), ("b1", "m1")]
    with Retriever(**world.addresses) as retriever:
        answers = [retriever.retrieve({"age": 0}, k=1) for _ in range(2)]
    assert [(answer.item_ids, answer.model_version) for answer in answers] == [(("east",), "m1")] * 2
    assert [request.model_version for request in world.query_tower.requests] == ["", "m2", "m1"]


def test_says_what_each_side_has_when_they_share_no_model(world: World) -> None:
    world.query_tower.bundles = [("b2", "m2")]
    with Retriever(**world.addresses) as retriever, pytest.raises(ModelNotServed) as caught:
        retriever.retrieve({})
    assert "open at the query tower: m2" in str(caught.value)
    assert "open at the ANN service: m1" in str(caught.value)
    assert caught.value.model_versions == ("m1",)
    assert isinstance(caught.value.__cause__, ModelNotServed)
    assert isinstance(caught.value.__cause__.__cause__, grpc.RpcError)


def test_an_index_of_another_model_is_never_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedAnn, "refuse_model", lambda *_: None)
    world.query_tower.bundles = [("b2", "m2")]
    world.ann.bundles = [("b1", "m1")]
    answer = ScriptedAnn.SearchItems

    def lie(service, request, context):
        request.model_version = "m1"
        return answer(service, request, context)

    monkeypatch.setattr(ScriptedAnn, "SearchItems", lie)
    with (
        serving(world.ann) as (ann_address,),
        Retriever(world.query_tower_address, ann_address) as retriever,
        pytest.raises(ServerError, match="searched 'm1'"),
    ):
        retriever.retrieve({})


def test_replicas_that_differ_still_agree() -> None:
    # Mid-rollout: one replica of each kind has the next model live; all four have m1 open.
    old = [("b1", "m1")]
    new = [("b2", "m2"), ("b1", "m1")]
    services = [ScriptedQueryTower(*old), ScriptedQueryTower(*new), ScriptedAnn(*old), ScriptedAnn(*new)]
    with serving(*services) as addresses, Retriever(addresses[:2], addresses[2:], timeout_s=5) as retriever:

        def answered_by_all() -> bool:
            assert retriever.retrieve({"age": 0}, k=1).item_ids == ("east",)
            return all(service.requests for service in services)

        # Calls go to a replica from when its connection stands, and the first calls may be done before that.
        wait_for(answered_by_all, "every replica has been asked")


def test_retries_while_a_service_is_unavailable(world: World) -> None:
    world.ann.failures.extend([bare(grpc.StatusCode.UNAVAILABLE)] * 2)
    with Retriever(**world.addresses, timeout_s=5) as retriever:
        assert retriever.retrieve({}, k=1).item_ids == ("east",)
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 3)


def test_an_address_where_nothing_answers(world: World) -> None:
    port = free_port()
    with (
        Retriever(f"localhost:{port}", world.ann_address, timeout_s=5) as retriever,
        pytest.raises(Unavailable, match=f":{port} is unavailable; check the address"),
    ):
        retriever.retrieve({})


def test_a_service_that_is_not_ready_is_told_from_one_that_is_not_there(world: World) -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    readiness = health.HealthServicer()
    readiness.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            Retriever(f"127.0.0.1:{port}", world.ann_address, timeout_s=5) as retriever,
            pytest.raises(Unavailable, match=f":{port} is not ready: it has no bundle yet, or is stopping"),
        ):
            retriever.retrieve({})
    finally:
        server.stop(None)


def test_goes_on_with_the_replica_that_is_left(world: World) -> None:
    addresses = [f"127.0.0.1:{free_port()}", world.ann_address]
    with Retriever(world.query_tower_address, addresses, timeout_s=5) as retriever:
        assert [retriever.retrieve({}, k=1).item_ids for _ in range(4)] == [("east",)] * 4


def test_the_deadline_bounds_the_whole_retrieve(world: World) -> None:
    world.ann.hang = True
    with Retriever(**world.addresses) as retriever, pytest.raises(DeadlineExceeded):
        retriever.retrieve({}, timeout_s=0.1)


def test_no_call_is_made_after_the_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock: start, 0.4 s later at the embed, 1.1 s later at the search.
    now_s = iter([100.0, 100.4, 101.1])
    monkeypatch.setattr("two_tower_client.retriever.time", SimpleNamespace(monotonic=lambda: next(now_s)))
    with Retriever(**world.addresses) as retriever, pytest.raises(DeadlineExceeded, match=r"no answer within 1\.0 s"):
        retriever.retrieve({})
    # The embed got the 0.6 s that were left; gRPC rounds up a little.
    assert 0 < world.query_tower.timeouts_s[0] < 0.7
    assert world.ann.requests == []


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_rejects_a_timeout_that_is_none(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        Retriever(timeout_s=timeout_s)


def test_threads_share_one(world: World) -> None:
    answers: list[Retrieval] = []
    with Retriever(**world.addresses, timeout_s=10) as retriever:
        threads = [threading.Thread(target=lambda: answers.append(retriever.retrieve({}, k=1))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.item_ids for answer in answers] == [("east",)] * 8


def of_both(world: World, ask: Callable) -> tuple:
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
def test_asyncio_twin_answers_the_same(world: World, ask: Callable) -> None:
    # A model that only the query tower has: both have to embed again.
    world.query_tower.bundles = [("b2", "m2"), ("b1", "m1")]
    synchronous, asynchronous = of_both(world, ask)
    assert synchronous == asynchronous


def test_asyncio_twin_raises_the_same(world: World) -> None:
    world.query_tower.bundles = [("b2", "m2")]

    async def ask() -> None:
        async with AsyncRetriever(**world.addresses) as retriever:
            await retriever.retrieve({})

    with Retriever(**world.addresses) as retriever, pytest.raises(ModelNotServed) as synchronous:
        retriever.retrieve({})
    with pytest.raises(ModelNotServed) as asynchronous:
        asyncio.run(ask())
    assert str(synchronous.value) == str(asynchronous.value)
    assert isinstance(asynchronous.value.__cause__.__cause__, grpc.RpcError)


class Meeting(query_grpc.QueryTowerServiceServicer):
    """Answers nobody before `count` calls are in flight."""

    def __init__(self, count: int) -> None:
        self.missing, self.complete = count, asyncio.Event()

    async def EmbedQueries(self, request, context):
        self.missing -= 1
        if not self.missing:
            self.complete.set()
        await self.complete.wait()
        age = request.queries[0].features["age"].ints.values[0]
        return query_pb2.EmbedQueriesResponse(embeddings=[query_pb2.Embedding(values=[age, 1])], model_version="m1")


def test_asyncio_carries_a_thousand_calls_at_once() -> None:
    async def ask() -> list[Embeddings]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        query_grpc.add_QueryTowerServiceServicer_to_server(Meeting(1000), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncQueryTowerClient(f"127.0.0.1:{port}", timeout_s=60) as client:
            answers = await asyncio.gather(*(client.embed([{"age": age}]) for age in range(1000)))
        await server.stop(None)
        return answers

    assert [answer.vectors for answer in asyncio.run(ask())] == [((float(age), 1.0),) for age in range(1000)]
