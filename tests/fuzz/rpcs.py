"""The methods of both services, called as the runtime calls them, and health and reflection through a real server."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from query_tower_service.event_requests import parse_events, parse_user
from retrieval.live_features.codec import StoredRecord, encode_event
from retrieval.live_features.records import Event
from retrieval.serving.answering.call import Call, Method
from retrieval.serving.answering.error_status import status_of
from retrieval.serving.answering.errors import InvalidRequest, ServiceError
from retrieval.steps import run_to_end
from retrieval.store.folder_store import FolderStore
from tests.fuzz.inputs import Choices, Target, edited_bytes, edited_message
from tests.fuzz.methods import Methods
from tests.harness import ann_service
from two_tower.ann.v1 import ann_service_pb2 as ann_pb
from two_tower.query.v1 import query_tower_service_pb2 as query_pb

_BUGS = ("INTERNAL", "UNKNOWN")
_FILLER = b"\xba\x3e\xa8\x46" + bytes(9000)
"""Field 999, which no message has: it makes a call large, so that its sizes are checked before it is decoded."""
_PAIRS = (("plain", "text"), ("age_decay_popularity", "events"))
"""Golden bundles that are open together, the one before the live one first."""


@contextmanager
def rpc_targets(folder: Path) -> Iterator[list[Target]]:
    """Opens golden bundles in an empty folder, and yields a target for each RPC, by bytes and by edited requests."""
    with ExitStack() as stack:
        worlds = [Methods(folder / str(number), names, stack) for number, names in enumerate(_PAIRS)]
        yield [
            *_method_targets("EmbedQueries", [(w.embed, w.queries(), w.words) for w in worlds], _check_embeddings),
            *_method_targets("SearchItems", [(w.search, w.searches(), w.words) for w in worlds], _check_results),
            *_event_targets(worlds[0].words),
            _status_target(worlds[0]),
            *stack.enter_context(_standard_targets(folder / "0")),
        ]


def _method_targets(name: str, worlds: Sequence[tuple[Method, list[Message], list[str]]], check: Any) -> list[Target]:
    """Returns the targets of a method; an input of both is one to three requests that are answered together."""

    def answer(case: tuple[int, Sequence[tuple[Any, bool]]]) -> None:
        number, requests = case
        bodies = [
            (request if isinstance(request, bytes) else request.SerializeToString()) + (_FILLER if is_large else b"")
            for request, is_large in requests
        ]
        method = worlds[number][0]
        size = method.max_shared if all(len(body) < 8192 for body in bodies) else 1
        for first in range(0, len(bodies), size):
            for call in call_method(method, bodies[first : first + size]):
                if call.error is None:
                    check(call)

    def make(choices: Choices, edited: Callable[[int], Any]) -> Any:
        number = choices.below(len(worlds))
        return number, [(edited(number), choices.rarely(3)) for _ in range(1 + choices.below(3))]

    serialized = [[request.SerializeToString() for request in requests] for _, requests, _ in worlds]
    words = [world[2] for world in worlds]
    return [
        Target(f"{name} bytes", lambda c: make(c, lambda n: edited_bytes(c, serialized[n])), answer),
        Target(f"{name} requests", lambda c: make(c, lambda n: edited_message(c, worlds[n][1], words[n])), answer),
    ]


def call_method(method: Method, bodies: Sequence[bytes]) -> list[Call]:
    """Answers bodies together as a runner does, and returns the calls, after checking that each has one outcome.

    Raises:
        AssertionError: a call has no outcome or two, or its status is INTERNAL or UNKNOWN.
    """
    calls = [Call(method, body, "", time.monotonic(), math.inf, _NEVER) for body in bodies]
    for _ in method.answer(calls):
        pass
    for call in calls:
        if call.error is None:
            assert call.response, "neither a response nor an error"
            continue
        assert not call.response, "a response and an error"
        if not isinstance(call.error, ServiceError) or code_pb2.Code.Name(call.error.code) in _BUGS:
            raise call.error
        assert status_of(call.error, "id").code.name not in _BUGS
    return calls


def _check_embeddings(call: Call) -> None:
    request = query_pb.EmbedQueriesRequest.FromString(call.body)
    response = query_pb.EmbedQueriesResponse.FromString(call.response)
    assert len(response.embeddings) == len(request.queries)
    for embedding in response.embeddings:
        assert abs(math.hypot(*embedding.values) - 1.0) < 1e-3, f"an embedding is {embedding.values[:]}"


def _check_results(call: Call) -> None:
    request = ann_pb.SearchItemsRequest.FromString(call.body)
    response = ann_pb.SearchItemsResponse.FromString(call.response)
    for search, result in zip(request.searches, response.results, strict=True):
        assert len(result.item_ids) == len(result.scores) == len(set(result.item_ids)) <= search.k
        assert all(map(math.isfinite, result.scores)), f"scores {result.scores[:]}"
        if not search.boosts and not search.diversify.diversity:
            assert all(first >= second for first, second in pairwise(result.scores)), f"scores {result.scores[:]}"
        assert len(result.boosts) == (len(result.item_ids) if search.boosts else 0)
        assert all(abs(boost) <= 100.001 for boost in result.boosts), f"boosts {result.boosts[:]}"
        assert len(result.marginal_relevances) == (len(result.item_ids) if search.diversify.diversity else 0)
        assert [facet.attribute for facet in result.facets] == [facet.attribute for facet in search.facets]
        assert all(1 <= value.count <= result.candidate_count for facet in result.facets for value in facet.values)
        assert not set(result.item_ids) & {*search.exclude_item_ids, *search.similar_to.values}
        assert [column.name for column in result.attributes] == search.return_attributes[:]


def _event_targets(words: list[str]) -> list[Target]:
    """Returns the targets of the methods that write to the feature store, up to the write itself."""

    def parse(request: Any) -> None:
        body = request if isinstance(request, bytes) else request.SerializeToString()
        for parsed in (
            lambda: run_to_end(parse_events(body, query_pb.RecordEventsRequest, 4, 1.7e9)),
            lambda: run_to_end(parse_events(body + _FILLER, query_pb.RecordEventsStreamRequest, 4, 1.7e9)),
            lambda: [Event("1", parse_user(body), "2", 3.0)],
        ):
            try:
                events = parsed()
            except InvalidRequest as error:
                status_of(error, "id")
                continue
            assert 1 <= len(events) <= 4
            for event in events:
                assert not list(event.faults())
                assert StoredRecord(events=f"[{encode_event(event)}]".encode()).decode() is not None

    values = {"rating": query_pb.EventValue(float_value=4.0), "shop": query_pb.EventValue(string_value="a")}
    event = query_pb.Event(event_id="1", user_id="2", item_id="3", time=1e9, type="view", weight=2.0, values=values)
    bases: list[Message] = [
        query_pb.RecordEventsRequest(events=[event, query_pb.Event(event_id="4", user_id="2", item_id="3")]),
        query_pb.ForgetUserRequest(user_id="2"),
    ]
    serialized = [base.SerializeToString() for base in bases]
    return [
        Target("RecordEvents bytes", lambda c: edited_bytes(c, serialized), parse),
        Target("RecordEvents requests", lambda c: edited_message(c, bases, words), parse),
    ]


def _status_target(world: Methods) -> Target:
    def check(case: tuple[bool, bytes]) -> None:
        is_ann, body = case
        (call,) = call_method(world.ann_status if is_ann else world.query_status, [body])
        assert call.error is None or call.error.code == code_pb2.INVALID_ARGUMENT  # type: ignore[attr-defined]

    bases = [b"", _FILLER, ann_pb.SearchItemsRequest(model_version="m").SerializeToString()]
    return Target("GetServingStatus bytes", lambda c: (bool(c.below(2)), edited_bytes(c, bases)), check)


@contextmanager
def _standard_targets(root: Path) -> Iterator[list[Target]]:
    """Runs a server, and yields the targets of health and reflection, which exist only within a server."""
    with ann_service(FolderStore(root)) as service:
        check_health = service.channel.unary_unary("/grpc.health.v1.Health/Check")
        reflect = service.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")

        def check_status(call: Any) -> None:
            try:
                call()
            except grpc.RpcError as error:
                code, details = error.code(), error.details()  # type: ignore[attr-defined]
                assert code.name not in (*_BUGS, "DEADLINE_EXCEEDED", "UNAVAILABLE"), f"{code}: {details}"

        health_bases = [health_pb2.HealthCheckRequest(service=name).SerializeToString() for name in ("", "x" * 2000)]
        request = reflection_pb2.ServerReflectionRequest
        name = "two_tower.ann.v1.AnnService"
        extension = reflection_pb2.ExtensionRequest(containing_type="two_tower.ann.v1.Search", extension_number=7)
        requests = [
            request(list_services=""),
            request(file_containing_symbol=name, host="h"),
            request(file_by_filename="two_tower/ann/v1/ann_service.proto"),
            request(file_containing_extension=extension),
            request(all_extension_numbers_of_type="two_tower.ann.v1.Search"),
        ]
        bodies = [message.SerializeToString() for message in requests]
        words = (name, "google/rpc/status.proto")

        def make_reflection(choices: Choices) -> list[bytes]:
            return [
                edited_bytes(choices, bodies)
                if choices.below(2)
                else edited_message(choices, requests, words).SerializeToString()
                for _ in range(1 + choices.below(3))
            ]

        yield [
            Target(
                "health bytes",
                lambda choices: edited_bytes(choices, health_bases),
                lambda body: check_status(lambda: check_health(body, timeout=20)),
            ),
            Target(
                "reflection bytes",
                make_reflection,
                lambda sent: check_status(lambda: list(reflect(iter(sent), timeout=20))),
            ),
        ]


def _never() -> asyncio.Future[None]:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.close()
    return future


_NEVER = _never()
