"""Vectors and queries to measure indexes with: synthetic ones, or those of a trained bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, VECTORS
from retrieval.store.folder_store import FolderStore

DIMENSION = 64
_SPREAD = 0.8
_TRAINED_SPREAD = 0.5
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True, eq=False)
class Data:
    """Item vectors and queries to measure an index with.

    Attributes:
        name: Name of the data set, for tables.
        vectors: [item_count, dimension] float32, unit length, vectors of the items.
        queries: [n, dimension] float32, unit length, queries; none of them equals an item vector.
    """

    name: str
    vectors: np.ndarray
    queries: np.ndarray


def make_data(item_count: int, query_count: int = 200, seed: int = 1, dimension: int = DIMENSION) -> Data:
    """Returns synthetic unit vectors in clusters, and queries from the same distribution.

    There are sqrt(item_count) cluster centres. Centres, and items around them, are normally distributed. Their standard
    deviation falls as 1 / sqrt(i) with the dimension i, as that of learned embeddings does. That of the items is 0.8 of
    that of the centres, so that clusters overlap.

    Args:
        item_count: number of items.
        query_count: number of queries.
        seed: seed of the draw.
        dimension: length of a vector.
    """
    generator = np.random.default_rng(seed)
    scale = (1.0 / np.sqrt(np.arange(1, dimension + 1))).astype(np.float32)
    centres = generator.standard_normal((max(1, round(item_count**0.5)), dimension), dtype=np.float32)

    def draw(count: int) -> np.ndarray:
        drawn = np.empty((count, dimension), dtype=np.float32)
        for start in range(0, count, _ROWS_AT_ONCE):
            part = drawn[start : start + _ROWS_AT_ONCE]
            own = centres[generator.integers(0, len(centres), len(part))]
            part[:] = (own + _SPREAD * generator.standard_normal(part.shape, dtype=np.float32)) * scale
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return drawn

    return Data(f"made, {item_count:,}", draw(item_count), draw(query_count))


def spread_items(items: np.ndarray, item_count: int, seed: int = 1) -> np.ndarray:
    """Returns the vectors of a larger synthetic catalogue around trained items: [item_count, dim] float32, unit length.

    Each vector is a trained item, drawn with replacement, plus normal noise with half the standard deviation and the
    correlations of the trained items. So query embeddings of the trained query tower are near to items of the larger
    catalogue. They would be far from all items of synthetic clusters, where an index has a lower recall at the same
    search budget.

    Args:
        items: [n, dim] float32, unit length, item vectors of a trained bundle.
        item_count: number of vectors to make.
        seed: seed of the draw.
    """
    generator = np.random.default_rng(seed)
    dimension = items.shape[1]
    covariance = np.cov(items, rowvar=False) + 1e-6 * np.eye(dimension)
    scale = (_TRAINED_SPREAD * np.linalg.cholesky(covariance).T).astype(np.float32)  # [dim, dim]
    drawn = np.empty((item_count, dimension), dtype=np.float32)
    for start in range(0, item_count, _ROWS_AT_ONCE):
        part = drawn[start : start + _ROWS_AT_ONCE]
        own = items[generator.integers(0, len(items), len(part))]
        part[:] = own + generator.standard_normal(part.shape, dtype=np.float32) @ scale  # [rows, dim]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return drawn


def read_bundle(store: Path, version: str | None = None) -> Data:
    """Returns the item vectors of a bundle, and queries near its golden queries.

    Args:
        store: folder of the bundle store.
        version: version of the bundle. Default: the live bundle.

    Raises:
        BundleNotFound: the store has no such bundle, or no bundle is live.
    """
    opened = FolderStore(store)
    chosen = version or opened.live_version()
    folder = opened.path(chosen)
    vectors = np.load(folder / VECTORS, mmap_mode="r").view(np.ndarray)
    return Data(f"bundle {chosen}, {len(vectors):,}", vectors, GoldenQueries.read(folder / GOLDEN_QUERIES).embeddings)
