"""Every error has a status, and all but bugs have details."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2

from serving import errors
from serving.errors import ServiceError, status_of

EXAMPLES: list[tuple[ServiceError, str, str]] = [
    (errors.InvalidRequest([("k", "0, expected 1 to 5")]), "INVALID_ARGUMENT", ""),
    (errors.ModelNotServed("m", ["a", "b"]), "FAILED_PRECONDITION", "MODEL_NOT_SERVED"),
    (errors.BundleNotServed("gone", ["a"]), "FAILED_PRECONDITION", "BUNDLE_NOT_SERVED"),
    (errors.LexicalNotServed("b", ["a"]), "FAILED_PRECONDITION", "LEXICAL_NOT_SERVED"),
    (errors.UnknownItem("f", ["x"]), "NOT_FOUND", "UNKNOWN_ITEM"),
    (errors.NoBundle(), "UNAVAILABLE", "NO_BUNDLE"),
    (errors.Overloaded(3), "RESOURCE_EXHAUSTED", "OVERLOADED"),
    (errors.Unauthenticated(), "UNAUTHENTICATED", "UNAUTHENTICATED"),
    (errors.DeadlinePassed(), "DEADLINE_EXCEEDED", "DEADLINE_PASSED"),
]


@pytest.mark.parametrize(("error", "code", "reason"), EXAMPLES)
def test_status_says_what_the_contract_promises(error: ServiceError, code: str, reason: str) -> None:
    status = status_of(error)
    assert status.code.name == code
    info = error_details_pb2.ErrorInfo()
    packed = dict(status.trailing_metadata)["grpc-status-details-bin"]
    detail = status_pb2.Status.FromString(packed).details[0]
    assert detail.Unpack(info) == bool(reason)
    assert info.reason == reason


def test_no_error_is_left_without_an_example() -> None:
    assert {type(example[0]) for example in EXAMPLES} == set(ServiceError.__subclasses__())


def test_drawing_names_every_error() -> None:
    for kind in (ServiceError, *ServiceError.__subclasses__()):
        assert kind.__name__ in (errors.__doc__ or "")


def test_bug_becomes_internal_without_its_text() -> None:
    status = status_of(KeyError("secret"))
    assert (status.code.name, "secret" in status.details) == ("INTERNAL", False)
