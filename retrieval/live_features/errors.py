"""The errors of the feature store.

FeatureStoreError
├── StoreUnavailable   no answer in time, no connection, or the circuit is open
├── StoreFull          Redis has no memory left for what would be written
└── UnreadableRecord   what Redis holds for a user was not written by this package
"""


class FeatureStoreError(Exception):
    """Base of every error of this package but ValueError, which is raised for input that is wrong."""


class StoreUnavailable(FeatureStoreError):
    """The feature store did not answer in time, cannot be reached, or refuses the command."""


class StoreFull(FeatureStoreError):
    """Redis has no memory left for what would be written."""


class UnreadableRecord(FeatureStoreError):
    """The keys of a user hold what this package did not write."""
