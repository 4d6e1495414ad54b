"""The errors of this package.

SearchIndexError
├── IndexBuildError     an index file cannot be written
└── PackageMissing      the package of this kind of index is not installed
    ├── FaissMissing
    └── LexicalMissing
"""


class SearchIndexError(RuntimeError):
    """Base of every error of this package."""


class IndexBuildError(SearchIndexError):
    """The index file cannot be written: the disk is full, or the folder is not writable."""


class PackageMissing(SearchIndexError):
    """The package that builds or searches this kind of index is not installed; the message says which to install."""


class FaissMissing(PackageMissing):
    """faiss-cpu is not installed."""


class LexicalMissing(PackageMissing):
    """bm25s is not installed."""
