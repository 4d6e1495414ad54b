"""The errors that the client raises.

::

    TwoTowerError
    ├── InvalidRequest      the request is at fault: mend it          .violations
    ├── ModelNotServed      no replica asked has that model open      .model_versions
    ├── BundleNotServed     the pinned bundle is not open             .bundle_versions
    ├── LexicalNotServed    the bundle cannot rank by a text          .bundle_versions
    ├── UnknownItem         an item to be similar to is not there     .item_ids
    ├── NoBundle            the service has loaded nothing yet        retry with backoff
    ├── Overloaded          too many requests are in flight           retry with backoff
    ├── Unauthenticated     the token is missing or wrong
    ├── Unavailable         nothing answers there, or is not ready    retry with backoff
    ├── DeadlineExceeded    no answer within `timeout_s`
    └── ServerError         anything else

Branch on the class, never on the text.
"""


class TwoTowerError(Exception):
    """The root of all errors of this package.

    Args:
        message: One line: what was wrong, and what to do.
    """

    def __init__(self, message: str) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.message = message


class InvalidRequest(TwoTowerError):
    """The request cannot be answered as it stands; a retry fails again.

    Attributes:
        violations: Pairs of the field and what is wrong with it; empty where the fault is not in one field.
    """

    def __init__(self, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.violations = violations

    @classmethod
    def in_field(cls, field: str, description: str) -> "InvalidRequest":
        """Returns the error of one field."""
        return cls(f"{field}: {description}", ((field, description),))


class ModelNotServed(TwoTowerError):
    """The model that made the embedding, or that was asked for, is not open.

    Attributes:
        model_versions: The models open at the replica that refused, the live one first; of the ANN service where a
            retrieve failed at both.
    """

    def __init__(self, message: str, model_versions: tuple[str, ...] = ()) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.model_versions = model_versions


class BundleNotServed(TwoTowerError):
    """The pinned bundle is not open, or is of another model.

    Attributes:
        bundle_versions: The bundles open at the replica that refused, the live one first.
    """

    def __init__(self, message: str, bundle_versions: tuple[str, ...] = ()) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.bundle_versions = bundle_versions


class LexicalNotServed(TwoTowerError):
    """The bundle that would answer has no lexical index, so that no text can rank its items.

    Attributes:
        bundle_versions: The open bundles that have one at the replica that refused, the live one first.
    """

    def __init__(self, message: str, bundle_versions: tuple[str, ...] = ()) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.bundle_versions = bundle_versions


class UnknownItem(TwoTowerError):
    """An item to be similar to is not in the bundle.

    Attributes:
        item_ids: The unknown ids, at most the first ten.
    """

    def __init__(self, message: str, item_ids: tuple[str, ...] = ()) -> None:
        """Takes the message and what a caller may branch on."""
        super().__init__(message)
        self.item_ids = item_ids


class NoBundle(TwoTowerError):
    """The service runs and has loaded no bundle yet."""


class Overloaded(TwoTowerError):
    """Too many requests are in flight."""


class Unauthenticated(TwoTowerError):
    """The service wants a token, and got none or a wrong one."""


class Unavailable(TwoTowerError):
    """Nothing answers at the address."""


class DeadlineExceeded(TwoTowerError):
    """No answer came in time."""


class ServerError(TwoTowerError):
    """The service failed in a way that the contract does not name."""
