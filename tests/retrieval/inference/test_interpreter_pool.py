"""The pool of LiteRT interpreters, at any batch size and in any thread, against LiteRT's signature runner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from retrieval.bundle.features.text import TextEncoders
from retrieval.inference.interpreter_pool import InterpreterPool
from retrieval.inference.query_tower import QueryTower
from tests.worlds import GOLDEN_COLUMNS, SCHEMA, tower


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "query_tower.tflite"
    path.write_bytes(tower(1).tflite)
    return path


def test_batches_of_any_size_are_embedded_as_by_the_signature_runner(path: Path) -> None:
    pool = InterpreterPool(path, size=1)
    whole = SCHEMA.encode(GOLDEN_COLUMNS, 4)
    runner = Interpreter(model_path=str(path)).get_signature_runner("serve")
    for rows in (slice(0, 4), slice(2, 3), slice(2, 3), slice(1, 4), slice(0, 4)):
        inputs = {name: array[rows] for name, array in whole.items()}
        np.testing.assert_array_equal(pool.run(inputs), runner(**inputs)["embedding"], strict=True)


def test_an_embedding_does_not_change_when_the_pool_runs_again(path: Path) -> None:
    pool = InterpreterPool(path, size=1)
    whole = SCHEMA.encode(GOLDEN_COLUMNS, 4)
    first = pool.run({name: array[:1] for name, array in whole.items()})
    kept = first.copy()
    pool.run({name: array[1:2] for name, array in whole.items()})
    np.testing.assert_array_equal(first, kept)


def test_more_threads_than_interpreters_get_their_own_rows(path: Path) -> None:
    pool = InterpreterPool(path, size=2)
    whole = SCHEMA.encode(GOLDEN_COLUMNS, 4)
    rows = [{name: array[row : row + 1] for name, array in whole.items()} for row in range(4)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(pool.run, rows * 50))
    np.testing.assert_allclose(np.concatenate(results), np.tile(tower(1).golden_embeddings, (50, 1)), atol=1e-5)


def test_a_call_that_fails_does_not_break_the_next(path: Path) -> None:
    pool = InterpreterPool(path, size=1)
    whole = SCHEMA.encode(GOLDEN_COLUMNS, 4)
    expected = pool.run(whole)
    with pytest.raises((ValueError, RuntimeError)):
        pool.run({**whole, "likes": np.zeros((4, 99), dtype=np.int32)})
    np.testing.assert_array_equal(pool.run(whole), expected)


def test_a_tower_of_other_features_or_dimension_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="the schema gives"):
        QueryTower(path, SCHEMA.subset({"age", "gender"}), TextEncoders(), 8)
    with pytest.raises(ValueError, match=r"expected embedding of \[9\]"):
        QueryTower(path, SCHEMA, TextEncoders(), 9)
