"""Metadata of a call: caller, request id, token file and trace context."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.clients.conftest import World
from tests.clients.world import bare, overloaded
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower_client import (
    AnnClient,
    AsyncRetriever,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotServed,
    QueryTowerClient,
    Retriever,
    Search,
    ServerError,
    TwoTowerError,
)
from two_tower_client.rpc.call_metadata import CallMetadata, make_request_id


def sent(world: World, key: str) -> list[str]:
    return [metadata.get(key, "") for metadata in (*world.query_tower.metadata, *world.ann.metadata)]


def test_a_retrieve_has_one_request_id_for_all_its_calls_and_retries(world: World) -> None:
    world.query_tower.failures.append(overloaded(0.01))
    world.ann.failures.append(bare(grpc.StatusCode.UNAVAILABLE))
    with Retriever(**world.addresses, timeout_s=5) as retriever:
        retriever.retrieve({}, request_id="r-1")
        retriever.retrieve({})
        retriever.retrieve({})
    ids = sent(world, "x-request-id")
    assert ids.count("r-1") == 4
    made = {each: ids.count(each) for each in ids if each != "r-1"}
    assert list(made.values()) == [2, 2]
    assert all(len(each) == 32 and int(each, 16) for each in made)


def test_asyncio_calls_carry_id_and_caller_too(world: World) -> None:
    async def ask() -> None:
        async with AsyncRetriever(**world.addresses, caller="shop front") as retriever:
            await retriever.retrieve({}, request_id="r-1")
            await retriever.similar_to("east", request_id="r-1")
            await retriever.retrieve({}, text="east", ranking="lexical", request_id="r-1")

    asyncio.run(ask())
    assert sent(world, "x-request-id") == ["r-1"] * 4
    assert sent(world, "two-tower-caller") == ["shop front"] * 4


def test_no_caller_is_sent_by_default(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        retriever.retrieve({})
    assert sent(world, "two-tower-caller") == ["", ""]


@pytest.mark.parametrize("caller", [" a", "a ", "a\nb", "Bäcker", "a" * 65, "\x7f"])
def test_rejects_a_caller_that_no_header_can_carry(caller: str) -> None:
    with pytest.raises(InvalidRequest, match="caller: has to be 1 to 64 printable ASCII"):
        AnnClient(caller=caller)


@pytest.mark.parametrize("request_id", ["a b", "ä", "a\n", "a" * 129])
def test_rejects_a_request_id_that_no_header_can_carry(world: World, request_id: str) -> None:
    with Retriever(**world.addresses) as retriever:
        for call in (retriever.retrieve, retriever.similar_to):
            with pytest.raises(InvalidRequest, match="request_id: has to be 1 to 128 printable ASCII"):
                call({} if call == retriever.retrieve else "east", request_id=request_id)  # type: ignore[arg-type]
    assert sent(world, "x-request-id") == []


def test_all_calls_and_retries_of_a_user_name_the_user(world: World) -> None:
    world.query_tower.failures.append(bare(grpc.StatusCode.UNAVAILABLE))
    world.ann.failures.append(bare(grpc.StatusCode.UNAVAILABLE))

    async def ask() -> None:
        async with AsyncRetriever(**world.addresses, timeout_s=5) as retriever:
            await retriever.retrieve({}, user="u-1")
            await retriever.popular(user="u-1")

    with Retriever(**world.addresses, timeout_s=5) as retriever:
        retriever.retrieve({}, user="u-1")
        retriever.similar_to("east", user="u-1")
        retriever.retrieve({}, text="east", ranking="lexical", user="u-1")
    asyncio.run(ask())
    assert sent(world, "two-tower-user") == ["u-1"] * 9


def test_no_user_is_sent_by_default(world: World) -> None:
    with Retriever(**world.addresses) as retriever:
        retriever.retrieve({})
    assert sent(world, "two-tower-user") == ["", ""]


@pytest.mark.parametrize("user", ["a b", "ä", "a\n", "a" * 129])
def test_rejects_a_user_that_no_header_can_carry(world: World, user: str) -> None:
    with Retriever(**world.addresses) as retriever:
        for call in (retriever.retrieve, retriever.similar_to):
            with pytest.raises(InvalidRequest, match="user: has to be 1 to 128 printable ASCII"):
                call({} if call == retriever.retrieve else "east", user=user)  # type: ignore[arg-type]
    assert sent(world, "two-tower-user") == []


def test_every_error_of_a_sent_request_names_its_id(world: World) -> None:
    raised = list[TwoTowerError]()

    def fail(retriever: Retriever, **options: float) -> type[TwoTowerError]:
        with pytest.raises(TwoTowerError) as caught:
            retriever.retrieve({}, request_id="r-1", **options)  # type: ignore[arg-type]
        raised.append(caught.value)
        return type(caught.value)

    with Retriever(**world.addresses) as retriever:
        world.ann.failures.append(bare(grpc.StatusCode.INTERNAL))
        assert fail(retriever) is ServerError
        assert fail(retriever, timeout_s=1e-9) is DeadlineExceeded
        world.ann.bundles = [("b2", "m2")]
        assert fail(retriever) is ModelNotServed
        world.ann.bundles = [("b1", "m1")]
        world.query_tower.EmbedQueries = lambda request, context: ann_pb2.SearchItemsResponse()  # type: ignore[method-assign]
    for error in raised:
        assert error.request_id == "r-1"
        assert str(error) == f"{error.message} (request r-1)"


def test_an_answer_that_breaks_the_contract_names_the_request(world: World) -> None:
    world.ann._search = lambda search, model, result: result.scores.append(1)
    with AnnClient(world.ann_address) as client, pytest.raises(ServerError, match=r"see its log \(request r-1\)"):
        client.search([Search(similar_to="east")], request_id="r-1")


def test_a_request_that_was_not_sent_has_no_id(world: World) -> None:
    with Retriever(**world.addresses) as retriever, pytest.raises(InvalidRequest) as caught:
        retriever.retrieve({"age": True})
    assert caught.value.request_id == ""


def test_a_token_file_is_read_again_when_it_changes(world: World, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    world.ann.token = "old"
    with AnnClient(world.ann_address, token_file=str(path)) as client:
        client.status()
        (tmp_path / "next").write_text("new\n")
        os.replace(tmp_path / "next", path)
        world.ann.token = "new"

        def is_let_in() -> bool:
            try:
                client.status()
            except TwoTowerError:
                return False
            return True

        wait_for(is_let_in, "the new token")


def test_an_unreadable_token_file_leaves_the_previous_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret")
    metadata = CallMetadata(token_file=str(path))
    before = metadata.make("r")
    for break_it in (lambda: path.write_text(""), path.unlink):
        break_it()
        metadata._look_at_s = 0.0
        assert metadata.make("r") == before
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["kept the previous token"] * 2
    assert "s3cret" not in caplog.text


def test_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys; from two_tower_client import AnnClient; c = AnnClient(); c._connection.metadata.make('r'); "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_active_span_is_passed_on() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    metadata, request_id = CallMetadata(), make_request_id()
    assert metadata.make(request_id) == (("x-request-id", request_id),)
    context = trace.SpanContext(0x1234, 0x56, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        parent = dict(metadata.make(request_id))["traceparent"]
    assert parent == "00-00000000000000000000000000001234-0000000000000056-01"


@pytest.mark.parametrize("sampled", [True, False])
def test_a_call_in_a_sampled_span_is_its_own(world: World, sampled: bool) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(0x1234, 0x56, is_remote=False, trace_flags=trace.TraceFlags(int(sampled)))
    with QueryTowerClient(world.query_tower_address) as client:
        shared, asked = client._shared, list[object]()
        ask = shared.ask
        shared.ask = lambda *options: (asked.append(options), ask(*options))[1]  # type: ignore[method-assign]
        with trace.use_span(trace.NonRecordingSpan(context)):
            client.embed([{}])
    assert bool(asked) is not sampled
    # A call of one query passes the span on, shared or not.
    assert world.query_tower.metadata[0]["traceparent"].endswith("-01" if sampled else "-00")
