"""An index of every kind over the same 30,000 vectors of 16 dimensions, with a budget of a middling recall for each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from retrieval.index.build import build_file
from retrieval.index.registry import KINDS, METRIC, Index, open_index
from tests.worlds import unit_vectors

ITEMS = 30_000
VECTORS = unit_vectors(ITEMS, 5, 16)
_PARAMETERS = {
    "annoy": {"trees": 10, "seed": 3},
    "faiss_hnsw": {"links": 8, "ef_construction": 40, "seed": 3},
    "faiss_ivf": {"lists": 400, "seed": 3},
}
BUDGETS = {"annoy": 600, "faiss_hnsw": 60, "faiss_ivf": 14}
for _structure in ("faiss_hnsw", "faiss_ivf"):
    for _storage in ("float16", "int8"):
        for _values in (_PARAMETERS, BUDGETS):
            _values[f"{_structure}_{_storage}"] = _values[_structure]
_FOLDER = TemporaryDirectory()

every_kind = pytest.mark.parametrize("kind", list(KINDS))


@cache
def opened(kind: str) -> Index:
    """Returns the index of a kind over `VECTORS`."""
    path = Path(_FOLDER.name) / kind
    build_file(kind, _PARAMETERS[kind], VECTORS, path)
    return open_index(kind, METRIC, path, VECTORS)
