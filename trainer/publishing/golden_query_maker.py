"""Makes golden queries: held-out queries with exact results, which the services check before they serve a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.index.scan import scan

COUNT = 32
"""Number of golden queries of a bundle."""
_TOP = 10
"""Number of exact nearest items of each golden query."""


def make_golden_queries(
    columns: Mapping[str, Sequence[Any]], queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str]
) -> GoldenQueries:
    """Returns golden queries, each with its exact 10 nearest items of the catalogue.

    Args:
        columns: Raw feature values by name, each [n].
        queries: [n, dim] float32, unit length: embeddings of the queries.
        vectors: [item_count, dim] float32, unit length.
        ids: [item_count] external item ids.
    """
    results = scan(vectors, queries, _TOP)
    top = [[ids[row] for row in hits.rows] for hits in results]
    return GoldenQueries(columns, queries, top, np.stack([hits.scores for hits in results]))
