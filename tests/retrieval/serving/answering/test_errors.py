"""The gRPC status and details of every error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from retrieval.serving.answering import errors
from retrieval.serving.answering.error_status import status_of
from retrieval.serving.answering.errors import ServiceError

EXAMPLES: list[tuple[ServiceError, str, str]] = [
    (errors.InvalidRequest([("k", "0, expected 1 to 5")]), "INVALID_ARGUMENT", ""),
    (errors.ModelNotServed("m", ["a", "b"]), "FAILED_PRECONDITION", "MODEL_NOT_SERVED"),
    (errors.BundleNotServed("gone", ["a"]), "FAILED_PRECONDITION", "BUNDLE_NOT_SERVED"),
    (errors.LexicalNotServed("b", ["a"]), "FAILED_PRECONDITION", "LEXICAL_NOT_SERVED"),
    (errors.PopularityNotServed("b", ["a"]), "FAILED_PRECONDITION", "POPULARITY_NOT_SERVED"),
    (errors.UnknownItem("f", ["x"]), "NOT_FOUND", "UNKNOWN_ITEM"),
    (errors.NoFeatureStore(), "FAILED_PRECONDITION", "NO_FEATURE_STORE"),
    (errors.NoBundle(), "UNAVAILABLE", "NO_BUNDLE"),
    (errors.FeatureStoreFault("the store is full"), "UNAVAILABLE", "FEATURE_STORE"),
    (errors.ShardsNotAnswering(["shard-01"], 0.5), "UNAVAILABLE", "SHARDS_NOT_ANSWERING"),
    (errors.Overloaded("3 requests are in flight", 0.1), "RESOURCE_EXHAUSTED", "OVERLOADED"),
    (errors.Stopping(), "UNAVAILABLE", "STOPPING"),
    (errors.PermissionDenied("admin"), "PERMISSION_DENIED", "SCOPE_MISSING"),
    (errors.NotReceived(1.5), "DEADLINE_EXCEEDED", "NOT_RECEIVED"),
    (errors.Unauthenticated(), "UNAUTHENTICATED", "UNAUTHENTICATED"),
    (errors.DeadlinePassed(), "DEADLINE_EXCEEDED", "DEADLINE_PASSED"),
]


@pytest.mark.parametrize(("error", "code", "reason"), EXAMPLES)
def test_status_has_the_code_and_reason_of_its_error(error: ServiceError, code: str, reason: str) -> None:
    status = status_of(error, "id-1")
    assert status.code.name == code
    info = error_details_pb2.ErrorInfo()
    packed = dict(status.trailing_metadata)["grpc-status-details-bin"]
    detail = status_pb2.Status.FromString(packed).details[0]
    assert detail.Unpack(info) == bool(reason)
    assert info.reason == reason


def test_a_refusal_says_when_to_try_again() -> None:
    packed = dict(status_of(errors.Overloaded("full", 0.25), "id-1").trailing_metadata)["grpc-status-details-bin"]
    hint = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(packed).details[1].Unpack(hint)
    assert hint.retry_delay.ToMilliseconds() == 250


def test_every_error_has_an_example() -> None:
    assert {type(example[0]) for example in EXAMPLES} == set(ServiceError.__subclasses__())


def test_drawing_names_every_error() -> None:
    for kind in (ServiceError, *ServiceError.__subclasses__()):
        assert kind.__name__ in (errors.__doc__ or "")


def test_unexpected_exception_becomes_internal_without_its_text() -> None:
    status = status_of(KeyError("secret"), "id-1")
    assert (status.code.name, "secret" in status.details) == ("INTERNAL", False)


LONG = "unknown feature; the model reads " + ", ".join(f"customer_feature_{n:02}" for n in range(40))


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (
            errors.InvalidRequest([(f"queries[{n}]", LONG) for n in range(20)]),
            "INVALID_ARGUMENT",
            "queries[0]: unknown",
        ),
        (errors.InvalidRequest([("é" * 80, "日" * 100)] * 20), "INVALID_ARGUMENT", "日; and 1"),
        (errors.InvalidRequest([("f" * 50_000, "😀" * 50_000)]), "INVALID_ARGUMENT", "…: 😀"),
        (errors.UnknownItem("similar_to", ["日" * 3000] * 30), "NOT_FOUND", "30 of these items: 日"),
        (errors.UnknownItem("similar_to", [f"item-{n}" for n in range(30)]), "NOT_FOUND", "item-8,item-9"),
    ],
)
def test_long_errors_are_cut_to_what_grpc_can_send(error: ServiceError, code: str, shown: str) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(status_of(error, "i" * 128))

    handlers = grpc.method_handlers_generic_handler("s", {"m": grpc.unary_unary_rpc_method_handler(refuse)})
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/s/m")(b"", timeout=20)
    finally:
        server.stop(0).wait()
    assert raised.value.code().name == code  # pyright: ignore[reportAttributeAccessIssue]
    status = rpc_status.from_call(raised.value)  # pyright: ignore[reportArgumentType]
    assert status is not None
    assert shown in status.message


def test_lists_the_violations_that_fit_and_counts_the_rest() -> None:
    few = errors.InvalidRequest([("a", "x"), ("b", "y")])
    assert str(few) == "a: x; b: y"
    many = errors.InvalidRequest([("a", "x" * 600)] * 20)
    # Each takes 601 bytes as text and 1,602 in details: two fit into 6,000.
    assert len(many.violations) == 2
    assert str(many).endswith("; and 18 more")
