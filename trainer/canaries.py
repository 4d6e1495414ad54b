"""Queries with their exact answers, for the services to check a bundle with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bundle.canaries import Canaries
from trainer import index

_CANARY_TOP = 10


def make_canaries(
    columns: Mapping[str, Sequence[Any]], queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str]
) -> Canaries:
    """Returns queries with their exact answers.

    Args:
        columns: raw feature values by name, each [n].
        queries: [n, dim] float32, their embeddings.
        vectors: [item_count, dim] float32.
        ids: [item_count] external ids.
    """
    top = index.exact_top_k(queries, vectors, _CANARY_TOP)  # [n, k]
    scores = np.einsum("nd,nkd->nk", queries, vectors[top])
    return Canaries(columns, queries, [[ids[row] for row in rows] for rows in top], scores)
