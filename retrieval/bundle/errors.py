"""The errors of bundles and of the store.

BundleError
├── BundleNotFound      the store does not hold this version
├── BundleRefused       a bundle failed a check and must not be served; names the gate
├── NothingToRollBack   no bundle was live before the live one
├── StoreError          the store cannot be read or written
└── InvalidVersion      a string is not a version
"""


class BundleError(Exception):
    """Base of every error of this package."""


class BundleNotFound(BundleError):
    """The store does not hold this version."""


class InvalidVersion(BundleError):
    """A version does not look like 20261124T031645Z-3f9a1c."""


class NothingToRollBack(BundleError):
    """No bundle was live before the live one."""


class StoreError(BundleError):
    """The store cannot be read or written."""


class BundleRefused(BundleError):
    """A bundle failed a check and must not be served.

    Attributes:
        version: Version of the bundle.
        gate: Name of the check that failed, for instance ``"sha256"``.
        message: Reason: the value, what was expected, what to do.
    """

    def __init__(self, version: str, gate: str, message: str) -> None:
        """Stores version, gate and message; ``str()`` of the error joins them."""
        super().__init__(f"bundle {version} refused by gate {gate}: {message}")
        self.version = version
        self.gate = gate
        self.message = message
