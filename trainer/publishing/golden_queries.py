"""Golden queries: queries with their exact answers, with which the services check a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.index.scan import scan

_TOP = 10


def make_golden_queries(
    columns: Mapping[str, Sequence[Any]], queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str]
) -> GoldenQueries:
    """Returns golden queries, each with its exact nearest items in the catalogue.

    Args:
        columns: raw feature values by name, each [n].
        queries: [n, dim] float32, their embeddings.
        vectors: [item_count, dim] float32.
        ids: [item_count] external ids.
    """
    results = scan(vectors, queries, _TOP)
    top = [[ids[row] for row in hits.rows] for hits in results]
    return GoldenQueries(columns, queries, top, np.stack([hits.scores for hits in results]))
