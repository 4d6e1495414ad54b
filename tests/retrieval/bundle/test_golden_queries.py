"""Golden queries on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrieval.bundle.golden_queries import GoldenQueries


def test_golden_queries_survive_the_disk(tmp_path: Path) -> None:
    embeddings = np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
    written = GoldenQueries(
        {"age": [3.5, None], "watched": [["a", "ü"], []]},
        embeddings,
        [["a", "b", "c"], ["c", "a", "b"]],
        np.array([[0.9, 0.5, 0.1], [0.3, 0.2, 0.1]], dtype=np.float32),
    )
    written.write(tmp_path / "canaries.json")
    read = GoldenQueries.read(tmp_path / "canaries.json")
    assert (len(read), read.columns, read.top_items) == (2, written.columns, written.top_items)
    np.testing.assert_array_equal(read.embeddings, embeddings, strict=True)
    np.testing.assert_array_equal(read.top_scores, written.top_scores, strict=True)


@pytest.mark.parametrize("change", [{"top_items": [["a"]]}, {"columns": {"age": [1, 2, 3]}}, {"embeddings": [1, 2]}])
def test_lengths_that_differ_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    whole = {
        "columns": {},
        "embeddings": [[1, 0], [0, 1]],
        "top_items": [["a"], ["b"]],
        "top_scores": [[1], [1]],
    }
    path = tmp_path / "canaries.json"
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(ValueError, match="damaged"):
        GoldenQueries.read(path)
    del whole["top_scores"]
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="damaged"):
        GoldenQueries.read(path)
