"""Retrieving from both services."""

import asyncio
import doctest
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.clients.conftest import World
from tests.clients.world import ScriptedAnn, ScriptedQueryTower, bare, free_port, serving
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client import (
    AsyncRetriever,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotServed,
    Retrieval,
    Retriever,
    ServerError,
    Unavailable,
)
from two_tower_client.filters import equals


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


def test_values_that_the_model_does_not_know_are_counted_for_each_query(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        queries = [{"history": ["east"]}, {"history": ["typo", "east", "typo"]}]
        assert [each.unknown_values for each in retriever.retrieve_batch(queries)] == [0, 2]
        assert retriever.retrieve(queries[0]).unknown_values == 0


def test_lexical_ranking_needs_no_query_tower(world: World) -> None:
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
        retrievals = retriever.retrieve_batch([{"age": 0}, {"age": 90}], 1, texts=["a", "b"], ranking="fused")
        retriever.similar_to("north", text="c", ranking="fused")
    assert asyncio.run(ask()) == retrievals
    assert [(search.text, search.ranking) for request in world.ann.requests for search in request.searches] == [
        ("a", ann_pb2.RANKING_FUSED),
        ("b", ann_pb2.RANKING_FUSED),
        ("c", ann_pb2.RANKING_FUSED),
        ("a", ann_pb2.RANKING_FUSED),
        ("b", ann_pb2.RANKING_FUSED),
    ]
    assert [retrieval.item_ids for retrieval in retrievals] == [("east",), ("north",)]


@pytest.mark.parametrize("texts", [["a"], "ab"])
def test_needs_one_text_for_each_query(world: World, texts: list[str]) -> None:
    with Retriever(**world.addresses) as retriever, pytest.raises(InvalidRequest, match="one for each of 2 queries"):
        retriever.retrieve_batch([{}, {}], texts=texts, ranking="fused")
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
    # Embedded by m2, the query would point north in the space of m1.
    assert (retrieval.item_ids, retrieval.model_version) == (("east",), "m1")
    assert [request.model_version for request in world.query_tower.requests] == ["", "m1"]
    assert [request.model_version for request in world.ann.requests] == ["m2", "m1"]


def test_embeds_again_when_the_query_tower_lacks_the_model(world: World) -> None:
    world.ann.bundles = [("b2", "m2"), ("b1", "m1")]
    with Retriever(**world.addresses) as retriever:
        answers = [retriever.retrieve({"age": 0}, k=1) for _ in range(2)]
    assert [(answer.item_ids, answer.model_version) for answer in answers] == [(("east",), "m1")] * 2
    assert [request.model_version for request in world.query_tower.requests] == ["", "m2", "m1"]


def test_names_the_models_of_both_services_when_they_share_none(world: World) -> None:
    world.query_tower.bundles = [("b2", "m2")]
    with Retriever(**world.addresses) as retriever, pytest.raises(ModelNotServed) as caught:
        retriever.retrieve({})
    assert "open at the query tower: m2" in str(caught.value)
    assert "open at the ANN service: m1" in str(caught.value)
    assert caught.value.model_versions == ("m1",)
    assert isinstance(caught.value.__cause__, ModelNotServed)
    assert isinstance(caught.value.__cause__.__cause__, grpc.RpcError)


def test_drops_results_from_an_index_of_another_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedAnn, "refuse_model", lambda *_: None)
    world.query_tower.bundles = [("b2", "m2")]
    world.ann.bundles = [("b1", "m1")]
    answer = ScriptedAnn.SearchItems

    def answer_with_m1(service, request, context):
        request.model_version = "m1"
        return answer(service, request, context)

    monkeypatch.setattr(ScriptedAnn, "SearchItems", answer_with_m1)
    with (
        serving(world.ann) as (ann_address,),
        Retriever(world.query_tower_address, ann_address) as retriever,
        pytest.raises(ServerError, match="searched 'm1'"),
    ):
        retriever.retrieve({})


def test_finds_the_model_that_all_replicas_have() -> None:
    # During a rollout: one replica of each service has the next model live; all four have m1 open.
    old = [("b1", "m1")]
    new = [("b2", "m2"), ("b1", "m1")]
    services = [ScriptedQueryTower(*old), ScriptedQueryTower(*new), ScriptedAnn(*old), ScriptedAnn(*new)]
    with serving(*services) as addresses, Retriever(addresses[:2], addresses[2:], timeout_s=5) as retriever:

        def answered_by_all() -> bool:
            assert retriever.retrieve({"age": 0}, k=1).item_ids == ("east",)
            return all(service.requests for service in services)

        # Calls go to a replica only once it is connected, and the first calls may be over before that.
        wait_for(answered_by_all, "every replica has been called")


def test_retries_while_a_service_is_unavailable(world: World) -> None:
    world.ann.failures.extend([bare(grpc.StatusCode.UNAVAILABLE)] * 2)
    with Retriever(**world.addresses, timeout_s=5) as retriever:
        assert retriever.retrieve({}, k=1).item_ids == ("east",)
    assert (len(world.query_tower.requests), len(world.ann.requests)) == (1, 3)


def test_says_that_nothing_answers_at_an_address(world: World) -> None:
    port = free_port()
    with (
        Retriever(f"localhost:{port}", world.ann_address, timeout_s=5) as retriever,
        pytest.raises(Unavailable, match=f":{port} is unavailable; check the address"),
    ):
        retriever.retrieve({})


def test_distinguishes_a_service_that_is_not_ready(world: World) -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    readiness = health.HealthServicer()
    readiness.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            Retriever(f"127.0.0.1:{port}", world.ann_address, timeout_s=5) as retriever,
            pytest.raises(Unavailable, match=f":{port} is not ready: it has no bundle yet .*, or is stopping"),
        ):
            retriever.retrieve({})
    finally:
        server.stop(None)


def test_continues_with_the_remaining_replica(world: World) -> None:
    addresses = [f"127.0.0.1:{free_port()}", world.ann_address]
    with Retriever(world.query_tower_address, addresses, timeout_s=5) as retriever:
        assert [retriever.retrieve({}, k=1).item_ids for _ in range(4)] == [("east",)] * 4


def test_the_deadline_bounds_the_whole_retrieve(world: World) -> None:
    world.ann.hang = True
    with Retriever(**world.addresses) as retriever, pytest.raises(DeadlineExceeded):
        retriever.retrieve({}, timeout_s=0.1)


def test_no_call_is_made_after_the_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock: at the start, 0.4 s later at EmbedQueries, 1.1 s later at SearchItems.
    now_s = iter([100.0, 100.4, 101.1])
    monkeypatch.setattr("two_tower_client.retrieve_request.time", SimpleNamespace(monotonic=lambda: next(now_s)))
    with Retriever(**world.addresses) as retriever, pytest.raises(DeadlineExceeded, match="no answer within 1 s"):
        retriever.retrieve({})
    # EmbedQueries got the remaining 0.6 s; gRPC rounds up a little.
    assert 0 < world.query_tower.timeouts_s[0] < 0.7
    assert world.ann.requests == []


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_rejects_an_invalid_timeout(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        Retriever(timeout_s=timeout_s)


def test_threads_share_a_retriever(world: World) -> None:
    answers: list[Retrieval] = []
    with Retriever(**world.addresses, timeout_s=10) as retriever:
        threads = [threading.Thread(target=lambda: answers.append(retriever.retrieve({}, k=1))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.item_ids for answer in answers] == [("east",)] * 8
