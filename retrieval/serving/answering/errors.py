"""The errors of a call, and the gRPC status of each. Only this module knows gRPC codes.

ServiceError
├── InvalidRequest      INVALID_ARGUMENT     BadRequest, one violation a field
├── ModelNotServed      FAILED_PRECONDITION  MODEL_NOT_SERVED, metadata "model_versions"
├── BundleNotServed     FAILED_PRECONDITION  BUNDLE_NOT_SERVED, metadata "bundle_versions"
├── LexicalNotServed    FAILED_PRECONDITION  LEXICAL_NOT_SERVED, metadata "bundle_versions"
├── PopularityNotServed FAILED_PRECONDITION  POPULARITY_NOT_SERVED, metadata "bundle_versions"
├── UnknownItem         NOT_FOUND            UNKNOWN_ITEM, metadata "item_ids"
├── NoFeatureStore      FAILED_PRECONDITION  NO_FEATURE_STORE
├── NoBundle            UNAVAILABLE          NO_BUNDLE
├── FeatureStoreFault   UNAVAILABLE          FEATURE_STORE
├── ShardsNotAnswering  UNAVAILABLE          SHARDS_NOT_ANSWERING, metadata "coverage"
├── Overloaded          RESOURCE_EXHAUSTED   OVERLOADED, with RetryInfo
├── Stopping            UNAVAILABLE          STOPPING
├── Unauthenticated     UNAUTHENTICATED      UNAUTHENTICATED
├── PermissionDenied    PERMISSION_DENIED    SCOPE_MISSING, metadata "scope"
├── NotReceived         DEADLINE_EXCEEDED    NOT_RECEIVED
└── DeadlinePassed      DEADLINE_EXCEEDED    DEADLINE_PASSED

Any other exception is a bug: it is logged with its traceback, and the caller gets INTERNAL without a reason.
Every status also has google.rpc.RequestInfo, and trailing metadata, with the request id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from retrieval.serving.answering.error_text import MOST_BYTES, cut, size_in_metadata, violations_that_fit

DOMAIN = "two-tower"
_LISTED_IDS = 10


class ServiceError(Exception):
    """Base class of the errors that a caller can cause or has to expect.

    Attributes:
        code: google.rpc.Code of the status.
        reason: reason in ErrorInfo; empty for InvalidRequest, which has BadRequest details instead.
        metadata: metadata in ErrorInfo.
    """

    code = code_pb2.INTERNAL
    reason = ""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        """Takes the message and the ErrorInfo metadata that the caller gets."""
        super().__init__(message)
        self.metadata = dict(metadata or {})

    def details(self) -> list[any_pb2.Any]:
        """Returns the details of the status, on which a program can branch."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        return [_pack(info)]


class InvalidRequest(ServiceError):
    """The request is invalid.

    Attributes:
        violations: pairs of a field path, such as ``queries[3].features["age"]``, and a description of the error.
    """

    code = code_pb2.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        """Takes at least one violation. Violations that do not fit into a status are counted in the message."""
        self.violations = tuple(violations_that_fit(violations))
        shown = "; ".join(f"{field}: {text}" if field else text for field, text in self.violations)
        left_out = len(violations) - len(self.violations)
        super().__init__(shown + (f"; and {left_out} more" if left_out else ""))

    def details(self) -> list[any_pb2.Any]:
        """Returns one BadRequest with all violations."""
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in self.violations
        ]
        return [_pack(error_details_pb2.BadRequest(field_violations=violations))]


class ModelNotServed(ServiceError):
    """No open bundle is of the requested model."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "MODEL_NOT_SERVED"

    def __init__(self, model_version: str, open_models: Sequence[str]) -> None:
        """Takes the requested model, and the open ones, the live one first."""
        listed = ",".join(open_models)
        super().__init__(
            f"model {model_version[:80]!r} is not open here; open are {listed}: embed again with one of them",
            {"model_versions": listed},
        )


class BundleNotServed(ServiceError):
    """The pinned bundle is not open, or is of another model."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "BUNDLE_NOT_SERVED"

    def __init__(self, message: str, open_bundles: Sequence[str]) -> None:
        """Takes the message, and the open bundles, the live one first."""
        listed = ",".join(open_bundles)
        super().__init__(f"{message}; open are {listed}", {"bundle_versions": listed})


class LexicalNotServed(ServiceError):
    """The bundle that was picked for the request has no lexical index."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "LEXICAL_NOT_SERVED"

    def __init__(self, bundle_version: str, bundles: Sequence[str]) -> None:
        """Takes the bundle, and the open ones that have a lexical index, the live one first."""
        listed = ",".join(bundles)
        super().__init__(
            f"bundle {bundle_version} has no lexical index, {listed or 'no open one'} has; rank by the embedding, or "
            "publish a bundle of a recipe with search.serve",
            {"bundle_versions": listed},
        )


class PopularityNotServed(ServiceError):
    """The bundle that was picked for the request does not know the popularity of its items."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "POPULARITY_NOT_SERVED"

    def __init__(self, bundle_version: str, bundles: Sequence[str]) -> None:
        """Takes the bundle, and the open ones that know it, the live one first."""
        listed = ",".join(bundles)
        super().__init__(
            f"bundle {bundle_version} has no popularity.npy, {listed or 'no open one'} has; publish a bundle again",
            {"bundle_versions": listed},
        )


class UnknownItem(ServiceError):
    """The bundle lacks items that the request names as examples."""

    code = code_pb2.NOT_FOUND
    reason = "UNKNOWN_ITEM"

    def __init__(self, field: str, item_ids: Sequence[str]) -> None:
        """Takes the field path, and the unknown ids; the first ten are listed."""
        shown = item_ids[:_LISTED_IDS]
        while len(shown) > 1 and size_in_metadata(",".join(shown)) > MOST_BYTES // 2:
            shown = shown[:-1]
        listed = cut(",".join(shown), MOST_BYTES // 2)
        super().__init__(f"{field}: the bundle lacks {len(item_ids)} of these items: {listed}", {"item_ids": listed})


class NoBundle(ServiceError):
    """No bundle is open."""

    code = code_pb2.UNAVAILABLE
    reason = "NO_BUNDLE"

    def __init__(self) -> None:
        """Builds the message, which says what to do."""
        super().__init__("no bundle is open yet; GetServingStatus says why; retry with backoff")


class NoFeatureStore(ServiceError):
    """The service runs without a feature store."""

    code = code_pb2.FAILED_PRECONDITION
    reason = "NO_FEATURE_STORE"

    def __init__(self) -> None:
        """Builds the message, which says what to do."""
        super().__init__("this service has no feature store; start it with --features, or call another replica")


class FeatureStoreFault(ServiceError):
    """The feature store cannot be written."""

    code = code_pb2.UNAVAILABLE
    reason = "FEATURE_STORE"


class ShardsNotAnswering(ServiceError):
    """Shards of the catalogue did not answer in time."""

    code = code_pb2.UNAVAILABLE
    reason = "SHARDS_NOT_ANSWERING"

    def __init__(self, silent: Sequence[str], coverage: float) -> None:
        """Takes the names of the shards that did not answer, and the share of the items in the others, 0 to 1."""
        listed = ", ".join(silent[:_LISTED_IDS])
        super().__init__(
            f"{len(silent)} shards did not answer in time ({listed}), the others hold {coverage:.3f} of the items; "
            "retry with backoff",
            {"coverage": f"{coverage:.6f}"},
        )


class Overloaded(ServiceError):
    """The service has more work than it can do in time. The status says when to try again.

    Attributes:
        retry_after_s: Pause before the next try, in seconds.
    """

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, fault: str, retry_after_s: float) -> None:
        """Takes what is exhausted, and the pause before the next try in seconds."""
        super().__init__(f"{fault}; retry with backoff, or at another replica")
        self.retry_after_s = retry_after_s

    def details(self) -> list[any_pb2.Any]:
        """Returns the reason, and google.rpc.RetryInfo with the pause."""
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * self.retry_after_s))
        return [*super().details(), _pack(error_details_pb2.RetryInfo(retry_delay=delay))]


class Unauthenticated(ServiceError):
    """The token is missing or wrong."""

    code = code_pb2.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"

    def __init__(self) -> None:
        """Builds the message, which says what is expected and never repeats what was sent."""
        super().__init__("a token is required: send the metadata 'authorization: Bearer <token>'")


class Stopping(ServiceError):
    """The service stops before the call is answered."""

    code = code_pb2.UNAVAILABLE
    reason = "STOPPING"

    def __init__(self) -> None:
        """Builds the message, which says what to do."""
        super().__init__("the service is stopping; call another replica, or retry with backoff")


class PermissionDenied(ServiceError):
    """The token lacks the scope that the method needs."""

    code = code_pb2.PERMISSION_DENIED
    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        """Takes the scope."""
        super().__init__(
            f"the token lacks the scope {scope}; use one that has it, or add the scope to its line in the token file",
            {"scope": scope},
        )


class NotReceived(ServiceError):
    """The message of a call did not arrive in time."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = "NOT_RECEIVED"

    def __init__(self, timeout_s: float) -> None:
        """Takes the time that a message may take to arrive, in seconds."""
        super().__init__(f"the request did not arrive within {timeout_s:g} s of the call")


class DeadlinePassed(ServiceError):
    """The deadline of a call passed, or its caller left, before the answer was ready."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = "DEADLINE_PASSED"

    def __init__(self) -> None:
        """Builds the message, which says what to do."""
        super().__init__("the deadline passed before the answer was ready; allow more time, or ask for less at once")


COUNTED_CODES = ("CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""Codes that the metrics show from the start, at zero."""

REFUSAL_REASONS = tuple(
    error.reason.lower() for error in (Overloaded, Unauthenticated, PermissionDenied, NotReceived, Stopping)
)
"""Reasons for which the metrics count a call as refused."""


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
