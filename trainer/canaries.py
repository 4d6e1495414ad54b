"""Queries with their exact answers, for the services to check a bundle with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ann_index.exact import scan
from bundle.canaries import Canaries

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
    found = scan(vectors, queries, _CANARY_TOP)
    top = [[ids[row] for row in rows] for rows, _ in found]
    return Canaries(columns, queries, top, np.stack([scores for _, scores in found]))
