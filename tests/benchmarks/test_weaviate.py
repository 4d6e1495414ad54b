"""The caller, the recall and the table of the benchmark beside Weaviate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.services.weaviate.__main__ import share_found
from benchmarks.services.weaviate.caller import load, read_vectors
from benchmarks.services.weaviate.contender import Caller, CallerFailed, Contender, Round, to_rows


def test_recall_is_the_mean_share_of_the_nearest_that_was_found() -> None:
    # 2 of 2 for the first query, 1 of 2 for the second: (1 + 0.5) / 2.
    assert share_found([[4, 1], [7, 9]], [[1, 4], [9, 8]]) == 0.75


def test_vectors_are_read_as_they_were_written(tmp_path: Path) -> None:
    np.array([[0.5, -1.0], [2.0, 0.25], [3.0, 4.0]], dtype=np.float32).tofile(tmp_path / "vectors")
    assert read_vectors(str(tmp_path / "vectors"), 2) == [[0.5, -1.0], [2.0, 0.25], [3.0, 4.0]]


def test_callers_share_the_queries_and_each_makes_two_searches_at_least() -> None:
    asked: list[float] = []

    def search(query: list[float]) -> list[int]:
        asked.append(query[0])
        return []

    found = load(search, [[0.0], [1.0], [2.0], [3.0], [4.0]], 2, 0.0)
    assert sorted(asked) == [0.0, 1.0, 2.0, 3.0]
    assert found["count"] == 4
    assert 0 < found["median_ms"] <= found["p99_ms"]
    assert found["seconds"] > 0


def test_an_error_of_a_search_ends_the_load() -> None:
    def search(query: list[float]) -> list[int]:
        raise ConnectionError(f"no answer to {query}")

    with pytest.raises(ConnectionError, match="no answer"):
        load(search, [[0.0]], 2, 0.0)


def test_a_caller_that_cannot_start_is_an_error() -> None:
    with Caller(sys.executable, ["--queries", "missing"]) as caller, pytest.raises(CallerFailed, match="no answer"):
        caller.ask({"load": 0.1, "callers": 1})


def test_ratios_of_the_table_are_those_of_one_round() -> None:
    caller = Caller(sys.executable, [])  # not started
    peer = Contender("peer", caller, [], {8: 0.99}, {8: [Round(100, 5, 9, 200, 800), Round(200, 4, 8, 200, 800)]})
    ours = Contender("ours", caller, [], {8: 1.0}, {8: [Round(300, 2, 4, 100, 150), Round(400, 3, 5, 300, 450)]})
    # 300 / 100 = 3 and 400 / 200 = 2, median 2.5; CPU (100 + 150) / 1000 = 0.25 and (300 + 450) / 1000 = 0.75.
    assert to_rows([peer, ours], peer) == [
        ["8", "peer", "0.990", "150 (100 to 200)", "", "4.5", "8.5", "800 (800 to 800)", "200", ""],
        [
            "8",
            "ours",
            "1.000",
            "350 (300 to 400)",
            "2.50 (2.00 to 3.00)",
            "2.5",
            "4.5",
            "300 (150 to 450)",
            "200",
            "0.50",
        ],
    ]
