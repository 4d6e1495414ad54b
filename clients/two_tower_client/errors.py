"""The errors that the client raises.

::

    TwoTowerError
    ├── InvalidRequest      the request is wrong: correct it                .violations
    ├── ModelNotServed      the requested model is not open                 .model_versions
    ├── BundleNotServed     the pinned bundle is not open                   .bundle_versions
    ├── LexicalNotServed    the bundle has no lexical index                 .bundle_versions
    ├── PopularityNotServed the bundle lacks the popularity of its items    .bundle_versions
    ├── NoFeatureStore      the service has no store of live features
    ├── UnknownItem         the bundle lacks an item of a similarity search .item_ids
    ├── NoBundle            the service has not loaded a bundle yet         retry with backoff
    ├── Overloaded          too many requests are in flight                 .retry_after_s, .local
    ├── Unauthenticated     the token is missing or wrong
    ├── PermissionDenied    the token lacks a scope
    ├── Unavailable         nothing answers at the address, or not yet      retry with backoff
    ├── DeadlineExceeded    no answer within `timeout_s`
    └── ServerError         any other failure of a service

Branch on the class, never on the text. The text ends with the id of the request, by which the logs of the services
name it.
"""


class TwoTowerError(Exception):
    """The root of all errors of this package.

    Attributes:
        message: One line that says what was wrong and what to do.
        request_id: Id of the request, which was sent as `x-request-id`. Empty if nothing was sent.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = ""

    def __str__(self) -> str:
        """Returns the message, and the id of the request if there is one."""
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class InvalidRequest(TwoTowerError):
    """The request is invalid; sending it again fails again.

    Attributes:
        violations: Pairs of a field and what is wrong with it. Empty if the service named no field.
    """

    def __init__(self, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations

    @classmethod
    def in_field(cls, field: str, description: str) -> "InvalidRequest":
        """Returns the error of a single field."""
        return cls(f"{field}: {description}", ((field, description),))


class ModelNotServed(TwoTowerError):
    """The requested model, or the model that made the embedding, is not open.

    Attributes:
        model_versions: The models that are open at the replica that refused, the live one first. If both services
            refused, those of the ANN service.
    """

    def __init__(self, message: str, model_versions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.model_versions = model_versions


class BundleNotServed(TwoTowerError):
    """The pinned bundle is not open, or belongs to another model.

    Attributes:
        bundle_versions: The bundles that are open at the replica that refused, the live one first.
    """

    def __init__(self, message: str, bundle_versions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.bundle_versions = bundle_versions


class LexicalNotServed(TwoTowerError):
    """The bundle has no lexical index, so a text cannot rank its items.

    Attributes:
        bundle_versions: The open bundles with a lexical index at the replica that refused, the live one first.
    """

    def __init__(self, message: str, bundle_versions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.bundle_versions = bundle_versions


class PopularityNotServed(TwoTowerError):
    """The bundle does not know the popularity of its items, so there are no popular items.

    Attributes:
        bundle_versions: The open bundles that know it at the replica that refused, the live one first.
    """

    def __init__(self, message: str, bundle_versions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.bundle_versions = bundle_versions


class NoFeatureStore(TwoTowerError):
    """The query tower service runs without a feature store, so nothing can be recorded or forgotten."""


class UnknownItem(TwoTowerError):
    """An id given as `similar_to` is not in the bundle.

    Attributes:
        item_ids: The unknown ids, at most the first ten.
    """

    def __init__(self, message: str, item_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.item_ids = item_ids


class NoBundle(TwoTowerError):
    """The service runs, but has not loaded a bundle yet. Retry with backoff."""


class Overloaded(TwoTowerError):
    """Too many requests are in flight. Retry with backoff.

    Attributes:
        retry_after_s: Seconds that the service asks to wait before a retry. None if it did not say.
        local: Whether this client rejected the call without sending it; see `ConnectionOptions.adaptive_throttling`.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, local: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.local = local


class Unauthenticated(TwoTowerError):
    """The service requires a token, and the request had none or a wrong one."""


class PermissionDenied(TwoTowerError):
    """The token lacks the scope that the call needs; the message names it. The status of a service needs `admin`."""


class Unavailable(TwoTowerError):
    """Nothing answers at the address, or the service is not ready yet. Retry with backoff."""


class DeadlineExceeded(TwoTowerError):
    """No answer arrived within `timeout_s`."""


class ServerError(TwoTowerError):
    """The service failed in a way that the contract does not name."""
