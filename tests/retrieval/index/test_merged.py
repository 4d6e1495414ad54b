"""Indexes of the parts of a catalogue, searched as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.bundle.catalogue.slicing import bounds_of
from retrieval.bundle.layout import VECTORS
from retrieval.index.merged import open_indexes, part_paths
from retrieval.index.sharding import build_indexes
from tests.worlds import unit_vectors

PARAMETERS = {"trees": 5, "seed": 3}


def test_the_parts_together_find_what_a_scan_finds(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(503, 1), unit_vectors(4, 2)
    paths = part_paths(tmp_path / "index.ann", 3)
    assert [str(path.relative_to(tmp_path)) for path in paths][2] == "shards/shard-02/index.ann"
    for path, (start, stop) in zip(paths, bounds_of(503, 3), strict=True):
        path.parent.mkdir(parents=True)
        np.save(path.with_name(VECTORS), vectors[start:stop])
    build_indexes("annoy", PARAMETERS, vectors, tmp_path / "index.ann", 3)
    index = open_indexes("annoy", "angular", tmp_path / "index.ann", vectors, 3)
    scores = queries @ vectors.T  # [4, 503]
    # With a budget that visits every leaf, an index is exact.
    for row, hits in enumerate(index.search(queries, 200, 10_000)):
        expected = np.argsort(-scores[row], kind="stable")[:200]
        np.testing.assert_array_equal(hits.rows, expected)
        np.testing.assert_allclose(hits.scores, scores[row][expected], atol=1e-6)
    assert index.cost(100, 1000) > open_indexes("annoy", "angular", paths[0], vectors[:167]).cost(100, 1000)
