"""Builds index files of the kinds of `retrieval.index.registry`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from retrieval.index import annoy_index, faiss_build

Tell = Callable[[str], None]
"""Function that is called with a few words when a step of a build begins."""


def default_lists(item_count: int) -> int:
    """Returns the default number of inverted lists: about 4 sqrt(item_count)."""
    return max(1, min(item_count, round(4 * math.sqrt(item_count))))


def build_file(
    kind: str, parameters: Mapping[str, int], vectors: np.ndarray, path: Path, tell: Tell = lambda step: None
) -> None:
    """Writes an index file. One thread builds it, so that equal vectors and parameters give equal bytes.

    Args:
        kind: kind of index, see `retrieval.index.registry`.
        parameters: ``seed``, and ``trees`` (annoy), ``links`` and ``ef_construction`` (faiss_hnsw…) or ``lists``
            (faiss_ivf…).
        vectors: [item_count, dim] float32, unit length.
        path: file to make.
        tell: called with the name of each step.

    Raises:
        IndexBuildError: the file cannot be written.
        FaissMissing: it is a FAISS index and faiss-cpu is not installed.
    """
    if kind == "annoy":
        annoy_index.write(parameters, vectors, path, tell)
    else:
        faiss_build.write(kind, parameters, vectors, path, tell)
