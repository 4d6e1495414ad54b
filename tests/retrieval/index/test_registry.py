"""Every kind of index against the exact scan."""

from __future__ import annotations

import builtins
import struct
import threading
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from retrieval.index import threads
from retrieval.index.build import build_file
from retrieval.index.errors import FaissMissing, IndexBuildError
from retrieval.index.registry import KINDS, METRIC, STRUCTURES, Index, open_index
from tests.worlds import unit_vectors

PARAMETERS: dict[str, dict[str, int]] = {
    "annoy": {"trees": 10, "seed": 3},
    "faiss_hnsw": {"links": 8, "ef_construction": 40, "seed": 3},
    "faiss_ivf": {"lists": 30, "seed": 3},
}
FULL = {"annoy": 10**6, "faiss_hnsw": 3000, "faiss_ivf": 30}
"""A budget that inspects everything."""
SMALL = {"annoy": 100, "faiss_hnsw": 1, "faiss_ivf": 1}
for _structure in ("faiss_hnsw", "faiss_ivf"):
    for _storage in ("float16", "int8"):
        for _values in (PARAMETERS, FULL, SMALL):
            _values[f"{_structure}_{_storage}"] = _values[_structure]

VECTORS = unit_vectors(3000, 5)
QUERIES = unit_vectors(40, 6)
_FOLDER = TemporaryDirectory()

every_kind = pytest.mark.parametrize("kind", list(KINDS))
faiss_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "annoy"])
coarse_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith(("float16", "int8"))])


@cache
def file(kind: str) -> Path:
    path = Path(_FOLDER.name) / kind
    build_file(kind, PARAMETERS[kind], VECTORS, path)
    return path


@cache
def opened(kind: str) -> Index:
    return open_index(kind, METRIC, file(kind), VECTORS)


def exact_rows(query: np.ndarray, k: int) -> list[int]:
    scores = VECTORS.astype(np.float64) @ query
    return np.argsort(-scores, kind="stable")[:k].tolist()


def recall(kind: str, k: int, budget: int) -> float:
    results = opened(kind).search(QUERIES, k, budget)
    hits = [len(set(rows.tolist()) & set(exact_rows(q, k))) for (rows, _), q in zip(results, QUERIES, strict=True)]
    return sum(hits) / (k * len(QUERIES))


def test_the_suite_knows_every_kind() -> None:
    assert PARAMETERS.keys() == FULL.keys() == SMALL.keys() == KINDS.keys()
    coarse = {f"{structure}_{storage}" for structure in STRUCTURES[1:] for storage in ("float16", "int8")}
    assert KINDS.keys() == {*STRUCTURES, *coarse}


@every_kind
def test_scores_are_exact_and_sorted_and_rows_distinct(kind: str) -> None:
    for k, budget in ((1, SMALL[kind]), (50, SMALL[kind]), (50, FULL[kind])):
        for query, (rows, scores) in zip(QUERIES, opened(kind).search(QUERIES, k, budget), strict=True):
            assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
            assert 1 <= len(set(rows.tolist())) == len(rows) == len(scores) <= k
            np.testing.assert_allclose(scores, VECTORS[rows] @ query, atol=1e-6)
            assert (np.diff(scores) <= 0).all()


@every_kind
def test_a_full_budget_finds_what_the_exact_scan_finds(kind: str) -> None:
    assert recall(kind, 50, FULL[kind]) > 0.999


@every_kind
def test_a_larger_budget_finds_more(kind: str) -> None:
    assert recall(kind, 50, SMALL[kind]) < recall(kind, 50, FULL[kind])
    assert opened(kind).cost(50, SMALL[kind]) < opened(kind).cost(50, FULL[kind])


@every_kind
def test_a_raised_budget_keeps_the_recall_for_more_hits(kind: str) -> None:
    budget = 600 if kind == "annoy" else 60 if kind.startswith("faiss_hnsw") else 4
    raised = opened(kind).raise_budget(budget, 50, 400)
    assert opened(kind).raise_budget(budget, 50, 50) == budget
    assert recall(kind, 50, budget) - 0.01 <= recall(kind, 400, raised)


@every_kind
def test_k_equal_to_the_item_count_returns_every_row(kind: str) -> None:
    rows, _ = opened(kind).search(QUERIES[:1], 3000, FULL[kind])[0]
    assert sorted(rows.tolist()) == list(range(3000))


@every_kind
def test_a_batch_gives_the_hits_of_its_queries_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "thread_count", lambda: 3)
    together = opened(kind).search(QUERIES, 20, SMALL[kind])
    for query, (rows, scores) in zip(QUERIES, together, strict=True):
        alone_rows, alone_scores = opened(kind).search(query[np.newaxis], 20, SMALL[kind])[0]
        assert rows.tolist() == alone_rows.tolist()
        np.testing.assert_allclose(scores, alone_scores, atol=1e-6)


@every_kind
def test_threads_with_different_budgets_do_not_interfere(kind: str) -> None:
    index = opened(kind)
    budgets = (SMALL[kind], FULL[kind])
    expected = {b: [rows.tolist() for rows, _ in index.search(QUERIES, 20, b)] for b in budgets}
    assert expected[budgets[0]] != expected[budgets[1]]
    wrong: list[int] = []

    def work(budget: int) -> None:
        for _ in range(15):
            for number, query in enumerate(QUERIES):
                if index.search(query[np.newaxis], 20, budget)[0].rows.tolist() != expected[budget][number]:
                    wrong.append(budget)

    running = [threading.Thread(target=work, args=(budget,)) for budget in budgets * 2]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


@every_kind
def test_the_same_parameters_give_the_same_bytes_and_another_seed_others(kind: str, tmp_path: Path) -> None:
    for name, seed in (("again", 3), ("other", 4)):
        build_file(kind, {**PARAMETERS[kind], "seed": seed}, VECTORS, tmp_path / name)
    assert (tmp_path / "again").read_bytes() == file(kind).read_bytes()
    assert (tmp_path / "other").read_bytes() != file(kind).read_bytes()


@every_kind
def test_a_file_that_cannot_be_written_is_an_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(IndexBuildError, match=f"cannot write the index to {tmp_path}/missing/index"):
        build_file(kind, PARAMETERS[kind], VECTORS, tmp_path / "missing" / "index")


@every_kind
def test_an_index_of_other_vectors_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"other|another"):
        open_index(kind, METRIC, file(kind), unit_vectors(3000, 7))
    with pytest.raises(ValueError, match="3000 items"):
        open_index(kind, METRIC, file(kind), VECTORS[:2999])
    with pytest.raises((ValueError, OSError)):
        open_index(kind, METRIC, file(kind), np.ascontiguousarray(VECTORS[:, :7]))


@every_kind
def test_a_file_of_another_kind_is_refused(kind: str) -> None:
    for other in KINDS.keys() - {kind}:
        with pytest.raises((ValueError, OSError)):
            open_index(kind, METRIC, file(other), VECTORS)


@every_kind
def test_another_metric_or_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(
        ValueError, match=r"known are annoy, faiss_hnsw, faiss_ivf, faiss_hnsw_float16, .*, all angular"
    ):
        open_index(kind, "dot", file(kind), VECTORS)
    with pytest.raises(ValueError, match="it is scann angular"):
        open_index("scann", METRIC, file(kind), VECTORS)


@coarse_kinds
def test_vectors_take_half_the_bytes_as_float16_and_a_quarter_as_int8(kind: str) -> None:
    structure, storage = kind.rsplit("_", 1)
    saved = file(structure).stat().st_size - file(kind).stat().st_size
    # 3,000 vectors of 8 dimensions; int8 also holds the range of each dimension.
    assert saved / (3000 * 8) == pytest.approx({"float16": 2.0, "int8": 3.0}[storage], abs=0.01)


@faiss_kinds
def test_a_truncated_faiss_file_is_refused(kind: str, tmp_path: Path) -> None:
    content = file(kind).read_bytes()
    # FAISS itself ends the process if a file that it maps is cut within some of the numbers before the vectors.
    for kept in (*range(0, 700), 4000, len(content) - 64, len(content) - 1):
        (tmp_path / f"cut-{kept}").write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"less than a header|a truncated or damaged file"):
            open_index(kind, METRIC, tmp_path / f"cut-{kept}", VECTORS)
    (tmp_path / "longer").write_bytes(content + b"more")
    with pytest.raises(ValueError, match="4 bytes follow its last section"):
        open_index(kind, METRIC, tmp_path / "longer", VECTORS)


@faiss_kinds
def test_a_faiss_file_with_flipped_bits_is_refused_or_answers(kind: str, tmp_path: Path) -> None:
    content = file(kind).read_bytes()
    refused = 0
    for position in (*range(0, 700), *range(len(content) - 100, len(content))):
        flipped = bytearray(content)
        flipped[position] ^= 0xA5
        path = tmp_path / str(position)
        path.write_bytes(flipped)
        try:
            opened = open_index(kind, METRIC, path, VECTORS)
        except ValueError:
            refused += 1
        else:
            for rows, scores in opened.search(QUERIES[:5], 20, SMALL[kind]):
                assert len(rows) == len(scores) <= 20
    assert refused > 100


@faiss_kinds
def test_a_faiss_file_with_a_wrong_header_is_refused(kind: str, tmp_path: Path) -> None:
    for position, value in ((4, struct.pack("<i", 9)), (8, struct.pack("<q", 3001)), (33, struct.pack("<i", 1))):
        content = bytearray(file(kind).read_bytes())
        content[position : position + len(value)] = value
        (tmp_path / "wrong").write_bytes(content)
        with pytest.raises(ValueError, match="its header says"):
            open_index(kind, METRIC, tmp_path / "wrong", VECTORS)


@faiss_kinds
def test_faiss_maps_the_file_instead_of_reading_it(kind: str) -> None:
    opened(kind).search(QUERIES, 5, 5)
    assert str(file(kind)) in Path("/proc/self/maps").read_text()


@faiss_kinds
def test_without_the_package_it_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without_faiss(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(FaissMissing, match=r"needs the package faiss-cpu.*two-tower-retrieval\[faiss\]"):
        open_index(kind, METRIC, file(kind), VECTORS)
