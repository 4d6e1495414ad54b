"""Maps the gRPC status and the google.rpc details of a failed call to an error of `two_tower_client.errors`."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from two_tower_client.errors import (
    BundleNotServed,
    DeadlineExceeded,
    InvalidRequest,
    LexicalNotServed,
    ModelNotServed,
    NoBundle,
    NoFeatureStore,
    Overloaded,
    PermissionDenied,
    PopularityNotServed,
    ServerError,
    TwoTowerError,
    Unauthenticated,
    Unavailable,
    UnknownItem,
)

_DOMAIN = "two-tower"
_UNHEALTHY = "backend unhealthy"
"""The text of gRPC's client-side health check for a service that answers but is not ready."""
_TOO_LARGE = "message larger than max"
_ANSWER_TOO_LARGE = "CLIENT: Received message larger than max"
"""The texts with which gRPC refuses a request or an answer that is too large. It sends no reason beside them."""
_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Whole milliseconds to wait before a retry; negative or unreadable: no retry (gRPC proposal A6, "Pushback")."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """The status of a failed call.

    Attributes:
        target: The gRPC target of the call.
        code: The status code.
        text: The status message, on one line.
        reason: `ErrorInfo.reason` of the domain "two-tower"; empty if there is none.
        info: `ErrorInfo.metadata`.
        violations: Field and description of each `BadRequest` violation.
        retry_after_s: Seconds to wait before a retry. None if the service did not say, or wants no retry.
    """

    target: str
    code: grpc.StatusCode
    text: str
    reason: str = ""
    info: dict[str, str] = field(default_factory=dict[str, str])
    violations: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None

    def listed(self, key: str) -> tuple[str, ...]:
        """Returns the parts of the comma-separated metadata value of `key`; empty if there is none."""
        return tuple(part for part in self.info.get(key, "").split(",") if part)


def from_rpc_error(error: grpc.RpcError, target: str) -> TwoTowerError:
    """Returns the error of this package for a failed call, synchronous or asyncio.

    Args:
        error: The exception that gRPC raised.
        target: The gRPC target of the call, for the message.
    """
    failure = _read(error, target)
    return ERRORS[failure.code](failure)


def no_answer(target: str) -> DeadlineExceeded:
    """Returns the error of a call that was not answered before its deadline."""
    return DeadlineExceeded(
        f"{target} did not answer in time; check that the service is not overloaded or frozen, raise `timeout_s`, or "
        "ask for less"
    )


def _read(error: grpc.RpcError, target: str) -> _Failure:
    failure = _Failure(target, error.code(), " ".join((error.details() or "").split()))
    trailing = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    if isinstance(details := trailing.get(_DETAILS_KEY), bytes):
        # A proxy may have truncated the details. The code alone still determines the error.
        with suppress(DecodeError):
            failure = _with_details(failure, status_pb2.Status.FromString(details))
    if (pushback := trailing.get(_PUSHBACK_KEY)) is not None:
        failure = replace(failure, retry_after_s=_pushback_s(pushback))
    return failure


def _with_details(failure: _Failure, status: status_pb2.Status) -> _Failure:
    reason, info, violations, retry_after_s = "", dict[str, str](), list[tuple[str, str]](), None
    for detail in status.details:
        error_info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        if detail.Unpack(error_info) and error_info.domain == _DOMAIN:
            reason, info = error_info.reason, dict(error_info.metadata)
        elif detail.Unpack(bad_request):
            violations += [(violation.field, violation.description) for violation in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry_after_s = max(0.0, retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9)
    return replace(failure, reason=reason, info=info, violations=tuple(violations), retry_after_s=retry_after_s)


def _pushback_s(milliseconds: str | bytes) -> float | None:
    return int(milliseconds) / 1000 if milliseconds.isdigit() and len(milliseconds) <= 10 else None


def _invalid_argument(failure: _Failure) -> TwoTowerError:
    described = "; ".join(f"{field}: {description}" for field, description in failure.violations)
    return InvalidRequest(described or failure.text or f"{failure.target} rejected the request", failure.violations)


def _failed_precondition(failure: _Failure) -> TwoTowerError:
    if failure.reason == "MODEL_NOT_SERVED":
        models = failure.listed("model_versions")
        return ModelNotServed(f"{failure.target} does not serve that model; it serves {_series(models)}", models)
    if failure.reason == "BUNDLE_NOT_SERVED":
        bundles = failure.listed("bundle_versions")
        return BundleNotServed(
            f"{failure.target} does not serve that bundle; it serves {_series(bundles)}; start again without a pin",
            bundles,
        )
    if failure.reason == "LEXICAL_NOT_SERVED":
        bundles = failure.listed("bundle_versions")
        return LexicalNotServed(
            f"the bundle at {failure.target} has no lexical index (open with one: {_series(bundles)}); rank by the "
            "embedding, or publish a bundle of a recipe with search.serve",
            bundles,
        )
    if failure.reason == "POPULARITY_NOT_SERVED":
        bundles = failure.listed("bundle_versions")
        return PopularityNotServed(
            f"the bundle at {failure.target} does not know the popularity of its items (open with it: "
            f"{_series(bundles)}); publish a bundle again with this trainer",
            bundles,
        )
    if failure.reason == "NO_FEATURE_STORE":
        return NoFeatureStore(f"{failure.target} has no feature store; start the service with --features")
    return _server_error(failure)


def _not_found(failure: _Failure) -> TwoTowerError:
    if failure.reason == "UNKNOWN_ITEM":
        items = failure.listed("item_ids")
        return UnknownItem(
            f"the bundle at {failure.target} has no item {_series(tuple(map(repr, items)))}; check, or leave out", items
        )
    return _server_error(failure)


def _unavailable(failure: _Failure) -> TwoTowerError:
    if failure.reason == "NO_BUNDLE":
        return NoBundle(f"{failure.target} has loaded no bundle yet; publish one, or retry in a while")
    if failure.reason == "STOPPING":
        return Unavailable(f"{failure.target} is stopping; retry with backoff, or at another replica")
    if failure.reason == "FEATURE_STORE":
        return Unavailable(f"{failure.target} cannot write{_said(failure)}")
    if _UNHEALTHY in failure.text:
        return Unavailable(
            f"{failure.target} is not ready: it has no bundle yet (`two-tower status` says why), or is stopping; retry "
            "with backoff"
        )
    return Unavailable(f"{failure.target} is unavailable; check the address and that the service runs{_said(failure)}")


def _resource_exhausted(failure: _Failure) -> TwoTowerError:
    if _ANSWER_TOO_LARGE in failure.text:
        return InvalidRequest(
            f"the answer of {failure.target} is too large for this client; ask for fewer queries, items or attributes "
            f"at once{_said(failure)}"
        )
    if _TOO_LARGE in failure.text:
        return InvalidRequest(f"{failure.target} accepts no request of this size; send less at once{_said(failure)}")
    when = "with backoff" if failure.retry_after_s is None else f"after {failure.retry_after_s:g} s"
    message = f"{failure.target} is overloaded; retry {when}, or add replicas{_said(failure)}"
    return Overloaded(message, failure.retry_after_s)


def _unauthenticated(failure: _Failure) -> TwoTowerError:
    return Unauthenticated(f"{failure.target} wants a valid token; pass `token` or `token_file`{_said(failure)}")


def _permission_denied(failure: _Failure) -> TwoTowerError:
    return PermissionDenied(f"{failure.target} wants a token with another scope; use one that has it{_said(failure)}")


def _deadline_exceeded(failure: _Failure) -> TwoTowerError:
    if failure.reason == "NOT_RECEIVED":
        return DeadlineExceeded(f"{failure.target} did not get the request in time; send less at once{_said(failure)}")
    return no_answer(failure.target)


def _unimplemented(failure: _Failure) -> TwoTowerError:
    return ServerError(
        f"{failure.target} does not offer this call; check that the addresses of query tower and ANN are not swapped"
        f"{_said(failure)}"
    )


def _server_error(failure: _Failure) -> TwoTowerError:
    return ServerError(f"{failure.target} failed with {failure.code.name}; see its log{_said(failure)}")


def _said(failure: _Failure) -> str:
    return f" ({failure.text})" if failure.text else ""


def _series(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


# A test checks that every code is listed, so a code that gRPC adds fails the test instead of a caller.
ERRORS: dict[grpc.StatusCode, Callable[[_Failure], TwoTowerError]] = {
    grpc.StatusCode.OK: _server_error,
    grpc.StatusCode.CANCELLED: _server_error,
    grpc.StatusCode.UNKNOWN: _server_error,
    grpc.StatusCode.INVALID_ARGUMENT: _invalid_argument,
    grpc.StatusCode.DEADLINE_EXCEEDED: _deadline_exceeded,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.ALREADY_EXISTS: _server_error,
    grpc.StatusCode.PERMISSION_DENIED: _permission_denied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _resource_exhausted,
    grpc.StatusCode.FAILED_PRECONDITION: _failed_precondition,
    grpc.StatusCode.ABORTED: _server_error,
    grpc.StatusCode.OUT_OF_RANGE: _server_error,
    grpc.StatusCode.UNIMPLEMENTED: _unimplemented,
    grpc.StatusCode.INTERNAL: _server_error,
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.DATA_LOSS: _server_error,
    grpc.StatusCode.UNAUTHENTICATED: _unauthenticated,
}
