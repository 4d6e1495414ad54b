"""What can go wrong with a bundle.

BundleError
├── BundleNotFound      a version that the store does not hold
├── BundleRefused       a bundle that must not be served; names the gate that refused it
├── NothingToRollBack   the live bundle has none before it
├── StoreError          the store itself cannot be read or written
└── InvalidVersion      a string that is no version
"""


class BundleError(Exception):
    """Base of every error of this package."""


class BundleNotFound(BundleError):
    """The store does not hold this version."""


class InvalidVersion(BundleError):
    """A version does not look like 20261124T031645Z-3f9a1c."""


class NothingToRollBack(BundleError):
    """There is no earlier live bundle."""


class StoreError(BundleError):
    """The store cannot be read or written."""


class BundleRefused(BundleError):
    """A bundle failed a check and must not be served.

    Attributes:
        version: the bundle.
        gate: the check that failed, for instance ``"sha256"``.
        message: what was found, what was expected, what to do.
    """

    def __init__(self, version: str, gate: str, message: str) -> None:
        """Keeps the parts; ``str()`` joins them."""
        super().__init__(f"bundle {version} refused by gate {gate}: {message}")
        self.version = version
        self.gate = gate
        self.message = message
